// SPDX-License-Identifier: GPL-3.0-or-later

// Package relay asks the other replicas for what this one does not have.
//
// There are two questions. A replica with a client asks the owner of the key, which asks the upstream if it must; then the
// members next in order; and at last itself (Relay.Fetch, Relay.Get). A replica that is about to ask the upstream, as the owner
// or as the last one left, first asks the others what they have stored (Stored). So a replica that is new or has lost its disk
// does not fetch again what another one has.
//
// # No circles
//
// A question of another replica is never answered by asking the first question. The second question is answered from the store
// alone. So no two replicas wait for each other, whatever each thinks of who owns what.
//
// # Silence
//
// The owner may wait for a slow upstream, and answers its probes meanwhile: it is waited for. One that is silent and has not
// answered its probe after some time is given up.
//
// # Outages
//
// A member that finds the upstream silent says so after seconds. Meanwhile this replica looks for itself, so that it need not
// ask one member after the other: where both find the upstream out, that is the answer. A member of which a replica asks
// something that finds the upstream out looks at once.
//
// # Wrong bytes
//
// A relay is a fill like others: it withholds the last bytes until the digest of all matches, wherever they came from. A member
// that sent wrong bytes is not asked for the same again for some minutes. An owner finds wrong bytes of its upstream before it has
// sent them all, and says so when it is asked for the rest: then only the owner's upstream is to blame.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/fill"
	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

const (
	// maxOwners is how many other members are asked before this replica asks the upstream itself.
	maxOwners = 3
	// maxStoredAsked is how many are asked what they have stored.
	maxStoredAsked = 2
	// doubtAfter is how long a member is waited for before this replica looks whether the upstream is out.
	doubtAfter = time.Second
)

// Peers are the other replicas. *peer.Peers is one.
type Peers interface {
	Rank(key string) []peer.Rank
	State(name string) peer.State
	Do(ctx context.Context, name, method, uri string, header http.Header, c peer.CallOptions) (*http.Response, error)
}

// Health returns the health of the upstream as this replica knows it. *upstream.Upstream is one.
type Health interface {
	// IsDown reports whether the upstream as a whole is out, and asks it unless it has answered since a time.
	IsDown(since time.Time) bool
	// WasDown reports whether the upstream was out when it was asked last.
	WasDown() bool
}

// Options configure a Relay. All but Share are required.
type Options struct {
	Peers    Peers
	Health   Health
	Upstream string // its host
	Share    bool   // blobs serve all repositories
	Store    *store.Upstream
	Log      *slog.Logger
}

// A Relay asks the other replicas about one upstream.
type Relay struct {
	opts   Options
	own    *fill.Handler
	denied denylist
	bytes  atomic.Int64
}

// New returns a relay. SetOwn must be called before it is used.
func New(o Options) *Relay { return &Relay{opts: o} }

// SetOwn sets the handler of the blobs that this replica fetches itself.
func (r *Relay) SetOwn(own *fill.Handler) { r.own = own }

// Bytes returns how many bytes of blobs came from other replicas.
func (r *Relay) Bytes() int64 { return r.bytes.Load() }

// key returns the key by which the owner of the answer to a request is found.
func (r *Relay) key(q route.Request) string {
	if q.Kind == route.Blob && r.opts.Share {
		return q.Upstream + "/blobs/" + q.Digest.String()
	}
	return q.Key()
}

// Owned reports whether this replica serves a request without asking another one.
func (r *Relay) Owned(q route.Request) bool {
	key := r.key(q)
	for _, rank := range r.opts.Peers.Rank(key) {
		if rank.Self || r.canFetch(key, rank) {
			return rank.Self
		}
	}
	return true
}

// canFetch reports whether a member may be asked to fetch.
func (r *Relay) canFetch(key string, rank peer.Rank) bool {
	return !rank.Leaving && !r.denied.has(key, rank.Name)
}

// members returns the others in the order in which they own a request's key.
func (r *Relay) members(q route.Request) []string {
	var names []string
	key := r.key(q)
	for _, rank := range r.opts.Peers.Rank(key) {
		if !rank.Self && r.canFetch(key, rank) {
			names = append(names, rank.Name)
		}
	}
	return names
}

// others returns the members that are likely to have stored the answer to a request: those that own its key next.
func (r *Relay) others(q route.Request) []string {
	var names []string
	for _, rank := range r.opts.Peers.Rank(r.key(q)) {
		if rank.Self || rank.Suspect || r.denied.has(r.key(q), rank.Name) {
			continue
		}
		if names = append(names, rank.Name); len(names) == maxStoredAsked {
			break
		}
	}
	return names
}

// firstUntried returns the first of some members that was not tried, or "" if there is none.
func firstUntried(names []string, tried map[string]bool) string {
	if len(tried) >= maxOwners {
		return ""
	}
	if i := slices.IndexFunc(names, func(name string) bool { return !tried[name] }); i >= 0 {
		return names[i]
	}
	return ""
}

// nextOwner returns the next member to ask, or "" if none is left, and whether it is this replica's own turn.
func (r *Relay) nextOwner(q route.Request, tried map[string]bool, triedSelf bool) (name string, self bool) {
	key := r.key(q)
	for _, rank := range r.opts.Peers.Rank(key) {
		switch {
		case rank.Self && !triedSelf:
			return "", true
		case !rank.Self && !tried[rank.Name] && len(tried) < maxOwners && r.canFetch(key, rank):
			return rank.Name, false
		}
	}
	return "", !triedSelf
}

// uri returns the URI of a request to a member.
func uri(q route.Request) string {
	var b strings.Builder
	b.WriteString(q.URI())
	if q.Query == "" {
		b.WriteByte('?')
	} else {
		b.WriteByte('&')
	}
	b.WriteString("ns=")
	b.WriteString(q.Upstream) // a host needs no escape but for that of an IPv6 address, which a query takes as it is
	return b.String()
}

// A peerError is an error of a member that is passed on to the client.
type peerError struct {
	route.StatusError
	after string // Retry-After
	age   time.Duration
	at    time.Time
}

// Unwrap returns the status and message.
func (e *peerError) Unwrap() error { return &e.StatusError }

// Age returns how long ago the upstream answered with the error.
func (e *peerError) Age() time.Duration { return e.age + time.Since(e.at) }

// Header returns the headers of the answer to a client.
func (e *peerError) Header() http.Header {
	h := http.Header{}
	if e.after != "" {
		h.Set("Retry-After", e.after)
	}
	return h
}

// isOutage reports whether a status says nothing about the content, so that another replica may have it. A status below 400 other
// than 200 is one too: it must not reach a client, which might take its body for the content.
func isOutage(status int) bool {
	switch {
	case status < http.StatusBadRequest:
		return status != http.StatusOK
	case status == http.StatusUnauthorized, status == http.StatusMisdirectedRequest:
		return true
	}
	return status >= http.StatusInternalServerError
}

var (
	errSilent   = errors.New("it is silent, and does not answer its probe")
	errStalled  = errors.New("it lives, but has stopped to send")
	errWrong    = fmt.Errorf("the fill of another replica: %w", store.ErrDigest)
	errBroken   = errors.New("the fill of another replica has failed twice")
	errDigest   = errors.New("the manifest does not have the digest")
	errTooLarge = errors.New("its error is too large")
)
