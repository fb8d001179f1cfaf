// SPDX-License-Identifier: GPL-3.0-or-later

// Package peer knows the other replicas: who they are, which of them owns a key, and who is alive. It asks them, and
// verifies what they ask and answer.
//
// The rules:
//
//   - Members come from one SRV lookup, and are hashed by name. A failed lookup changes nothing; who is missing from two
//     lookups is dropped; this replica is always a member.
//   - Alive by use: bytes of an answer with a proof show that a member lives. A connect that fails puts it out at once.
//     A second of silence where bytes are due makes it suspect: it is probed, and the caller may ask the next member.
//     After two seconds it is out, and probed until it answers. Nobody else is probed.
//   - Times are counted in steps for which this process has run, and the kernel has the last word, so that a starved process
//     condemns nobody.
//   - A hop has no secret in it, only a MAC; it is for one member, for a minute, and once. An answer without the proof of
//     the member that was asked is no answer.
//   - A hop never hops: a handler that finds one in its context (FromContext) serves it itself, or refuses.
//   - A member that drains says so. It is asked for what it has then, and for nothing else.
//   - What comes from the network is bounded: members, headers, bodies in memory, nonces, hops to a member.
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

// membersLimit is the most members that are kept.
const membersLimit = 1000

// A Member is another replica of a fixed list.
type Member struct {
	Name    string // lower-case letters, digits, - and _
	Address string // host and port
}

// Options configure Peers. Self, Secret, Log, and one of Service and Members are required.
type Options struct {
	Self    string        // this replica's name: of a pod of a StatefulSet, its host name
	Service string        // a headless Service with a port "peers", by its DNS name; _peers._tcp is put before it
	Members []Member      // in place of a Service
	Secret  string        // a file with one secret, or two: the second is accepted but not used
	Log     *slog.Logger  //
	DNS     *net.Resolver // nil: the system's
}

// Peers are the replicas of a cache, as one of them sees them.
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
	fresh    http.RoundTripper // a new connection for each request
	idle     []*http.Transport // to close
	counts   counts
	lookedUp chan struct{} // closed after the first lookup
	draining atomic.Bool

	list atomic.Pointer[list]

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	mu   sync.Mutex // spawn and Close
	wg   sync.WaitGroup
}

// list holds the members at a time. It never changes.
type list struct {
	all    []*member
	byName map[string]*member
}

// New returns the peers, and looks up the members until Close.
func New(o Options) (*Peers, error) {
	switch {
	case !isName(o.Self):
		return nil, fmt.Errorf("peer: own name %q must be 1 to %d lower-case letters, digits, - and _, for example registry-cache-0", o.Self, nameLimit)
	case o.Log == nil:
		return nil, errors.New("peer: a log is required")
	case (o.Service == "") == (o.Members == nil):
		return nil, errors.New("peer: either a Service or a list of members is required")
	case len(o.Members) > membersLimit:
		return nil, fmt.Errorf("peer: %d members given, at most %d are possible", len(o.Members), membersLimit)
	}
	for _, m := range o.Members {
		if _, _, err := net.SplitHostPort(m.Address); err != nil || !isName(m.Name) {
			return nil, fmt.Errorf("peer: member %q at %q must have a name such as registry-cache-0, and an address such as 10.0.0.1:5005", m.Name, m.Address)
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

// Close ends lookups and probes. It does not end hops, which end with their contexts.
func (p *Peers) Close() {
	p.mu.Lock()
	p.stop() // nothing is spawned from now on
	p.mu.Unlock()
	p.wg.Wait()
	for _, t := range p.idle {
		t.CloseIdleConnections()
	}
}

// spawn runs a function in a goroutine that Close waits for.
func (p *Peers) spawn(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() == nil {
		p.wg.Go(f)
	}
}

// LookedUp returns a channel that is closed after the first lookup of the members, with or without success.
func (p *Peers) LookedUp() <-chan struct{} { return p.lookedUp }

// members returns all members, this replica included.
func (p *Peers) members() []*member { return p.list.Load().all }

// find returns the member with a name, or nil if there is none.
func (p *Peers) find(name string) *member { return p.list.Load().byName[name] }

func (p *Peers) setMembers(all []*member) {
	l := &list{all: all, byName: make(map[string]*member, len(all))}
	for _, m := range all {
		l.byName[m.name] = m
	}
	p.list.Store(l)
}
