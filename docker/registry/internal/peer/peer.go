// SPDX-License-Identifier: GPL-3.0-or-later

// Package peer is the protocol between replicas. It tracks the other replicas: their names, which of them owns a key,
// and which are alive. It sends requests to them, and verifies their requests and answers.
//
// Rules:
//
//   - Members come from an SRV lookup, and are hashed by name. A failed lookup changes nothing. A member that is
//     missing from two lookups is dropped. This replica is always a member.
//   - Requests serve as health checks: bytes of an answer with a proof show that a member is alive. A failed connect
//     puts it out at once. After a second of silence while bytes are due, it is suspect: it is probed, and the caller
//     may ask the next member. After two seconds it is out, and probed until it answers. No other members are probed.
//   - Time is counted in steps during which this process has run, and the kernel is asked for unread bytes before a
//     member is marked, so that a process starved of CPU does not blame other members.
//   - A hop contains a MAC, but no secret. It is valid once, for one member and one minute. An answer without a proof
//     from the requested member is ignored.
//   - A hop must not cause another hop: a handler with a hop in its context (FromContext) serves it locally or refuses
//     it.
//   - A draining member says so. Then it is asked only for content that it has stored.
//   - Everything from the network is limited: members, headers, bodies in memory, nonces, and hops to a member.
package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// membersLimit is the maximum number of members.
const membersLimit = 1000

// A Member is another replica in a fixed list.
type Member struct {
	Name    string // lower-case letters, digits, - and _
	Address string // host and port
}

// Options configure Peers. Self, Secret, Log, and one of Service and Members are required.
type Options struct {
	Self    string        // name of this replica; in a StatefulSet, the host name
	Service string        // DNS name of a headless Service with a port named "peers"
	Members []Member      // members, instead of a Service
	Secret  string        // file with one or two secrets; the second one only verifies
	Log     *slog.Logger  //
	DNS     *net.Resolver // default: the system's resolver
}

// Peers are the replicas of a cache, as seen by one of them.
type Peers struct {
	self     *member
	service  string
	resolver *net.Resolver
	lookUp   func(ctx context.Context) ([]Member, error)
	secret   *secret
	nonces   *nonces
	log      *slog.Logger
	version  string
	hops     http.RoundTripper
	fresh    http.RoundTripper // uses a new connection for each request
	idle     []*http.Transport // transports with idle connections to close
	counts   counts
	lookedUp chan struct{} // closed after the first lookup
	draining atomic.Bool

	list atomic.Pointer[list]

	ctx  context.Context // canceled by Close
	stop context.CancelFunc
	mu   sync.Mutex // serializes spawn and Close
	wg   sync.WaitGroup
}

// list is an immutable list of members.
type list struct {
	all    []*member
	byName map[string]*member
}

// New returns the peers, and starts looking up the members, until Close.
func New(o Options) (*Peers, error) {
	switch {
	case !isName(o.Self):
		return nil, fmt.Errorf("peer: the name of this replica must be 1 to %d lower-case letters, digits, - or _ (got %q); for example registry-cache-0", nameLimit, o.Self)
	case o.Log == nil:
		return nil, errors.New("peer: a log is required")
	case (o.Service == "") == (o.Members == nil):
		return nil, errors.New("peer: either a Service or a list of members is required")
	case len(o.Members) > membersLimit:
		return nil, fmt.Errorf("peer: at most %d members are allowed (got %d)", membersLimit, len(o.Members))
	}
	for _, m := range o.Members {
		if _, _, err := net.SplitHostPort(m.Address); err != nil || !isName(m.Name) {
			return nil, fmt.Errorf("peer: a member must have a valid name and address (got %q, %q); for example registry-cache-0, 10.0.0.1:5005", m.Name, m.Address)
		}
	}
	key, err := openSecret(o.Secret, o.Log)
	if err != nil {
		return nil, err
	}
	p := &Peers{
		service: o.Service, resolver: o.DNS, secret: key, nonces: newNonces(noncesLimit), log: o.Log, version: version, counts: newCounts(),
		lookedUp: make(chan struct{}),
	}
	if p.resolver == nil {
		p.resolver = net.DefaultResolver
	}
	p.lookUp = p.lookUpService
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.self = newMember(p, o.Self)
	p.setTransports()
	p.setMembers([]*member{p.self})
	if o.Service == "" {
		p.updateMembers(o.Members, nil)
		close(p.lookedUp)
		return p, nil
	}
	p.spawn(p.refresh)
	return p, nil
}

// Close stops lookups and probes. It does not cancel hops, which end with their contexts.
func (p *Peers) Close() {
	p.mu.Lock()
	p.stop() // spawn starts no more goroutines
	p.mu.Unlock()
	p.wg.Wait()
	for _, t := range p.idle {
		t.CloseIdleConnections()
	}
}

// spawn runs a function in a goroutine for which Close waits.
func (p *Peers) spawn(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() == nil {
		p.wg.Go(f)
	}
}

// LookedUp returns a channel that is closed after the first lookup of the members, successful or not.
func (p *Peers) LookedUp() <-chan struct{} { return p.lookedUp }

// members returns all members, this replica included.
func (p *Peers) members() []*member { return p.list.Load().all }

// find returns the member with a name, or nil.
func (p *Peers) find(name string) *member { return p.list.Load().byName[name] }

func (p *Peers) setMembers(all []*member) {
	l := &list{all: all, byName: make(map[string]*member, len(all))}
	for _, m := range all {
		l.byName[m.name] = m
	}
	p.list.Store(l)
}
