// SPDX-License-Identifier: GPL-3.0-or-later

// Package relay gets content from the other replicas.
//
// There are two kinds of requests. For a client, a replica asks the owner of the key, which asks the upstream if
// necessary; then the next members in order; and finally itself (Relay.Fetch, Relay.Get). Before a replica asks the
// upstream, as the owner or as the last one in order, it asks the other replicas for stored content (Stored).
// Therefore, a replica that is new or has lost its disk does not fetch content again that another one has stored.
//
// # No deadlocks
//
// A request from another replica never causes a request of the first kind. A request of the second kind is answered
// only from the store. Therefore, two replicas never wait for each other, even if they disagree about ownership.
//
// # Handovers
//
// Before a replica shuts down, the next owners copy what it has stored (CopyBlob, GetStored). These requests are of the
// second kind, and go to that replica only. What it does not send is not copied: the upstream is never asked.
//
// # Silence
//
// An owner may be waiting for a slow upstream. As long as it answers its probes, this replica waits for it. A silent
// member that does not answer its probes is given up.
//
// # Outages
//
// A member that finds the upstream silent says so after some seconds. In the meantime, this replica checks the upstream
// itself, so that it need not ask one member after the other: if both consider the upstream down, that is the answer. A
// member checks the upstream at once if it is asked by a replica that considers the upstream down.
//
// # Wrong bytes
//
// Like every fill, a relay withholds the last bytes until the digest of the whole blob matches. A member that sent
// wrong bytes is not asked for the same blob for some minutes. An owner detects wrong bytes from its upstream before it
// has sent all of them, and says so when it is asked for the rest. Then the members are not blamed.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/fill"
	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

const (
	// maxOwners is the maximum number of other members to ask before this replica asks the upstream.
	maxOwners = 3
	// maxStoredAsked is the maximum number of members to ask for stored content.
	maxStoredAsked = 2
	// doubtAfter is how long to wait for a member before checking whether the upstream is down.
	doubtAfter = time.Second
)

// Peers are the other replicas. It is implemented by *peer.Peers.
type Peers interface {
	Rank(key string) []peer.Rank
	State(name string) peer.State
	Do(ctx context.Context, name, method, uri string, header http.Header, c peer.CallOptions) (*http.Response, error)
}

// Health is the health of the upstream as seen by this replica. It is implemented by *upstream.Upstream.
type Health interface {
	// IsDown reports whether the upstream as a whole is down. It asks the upstream unless that has responded since the
	// given time.
	IsDown(since time.Time) bool
	// WasDown reports whether the upstream was down when it was last asked.
	WasDown() bool
}

// Options configure a Relay. All fields but Share are required.
type Options struct {
	Peers    Peers
	Health   Health
	Upstream string // host of the upstream
	Share    bool   // repositories share blobs
	Store    *store.Upstream
	Log      *slog.Logger
}

// A Relay gets the content of one upstream from the other replicas.
type Relay struct {
	opts   Options
	own    *fill.Handler
	denied denylist
	room   sync.Mutex // serializes reservations for handovers
	bytes  atomic.Int64
}

// New returns a Relay. Call SetOwn before using it.
func New(o Options) *Relay { return &Relay{opts: o} }

// SetOwn sets the handler for blobs that this replica fetches itself.
func (r *Relay) SetOwn(own *fill.Handler) { r.own = own }

// Bytes returns the number of bytes of blobs received from other replicas.
func (r *Relay) Bytes() int64 { return r.bytes.Load() }

// Key returns the key that determines the owner of a request.
func (r *Relay) Key(q route.Request) string {
	if q.Kind == route.Blob && r.opts.Share {
		return q.Upstream + "/blobs/" + q.Digest.String()
	}
	return q.Key()
}

// Owned reports whether this replica should serve a request without asking the owner.
func (r *Relay) Owned(q route.Request) bool {
	key := r.Key(q)
	for _, rank := range r.opts.Peers.Rank(key) {
		if rank.Self || r.canFetch(key, rank) {
			return rank.Self
		}
	}
	return true
}

// canFetch reports whether a member may be asked to fetch a key.
func (r *Relay) canFetch(key string, rank peer.Rank) bool {
	return !rank.Leaving && !r.denied.has(key, rank.Name)
}

// members returns the other members in the order of ownership.
func (r *Relay) members(q route.Request) []string {
	var names []string
	key := r.Key(q)
	for _, rank := range r.opts.Peers.Rank(key) {
		if !rank.Self && r.canFetch(key, rank) {
			names = append(names, rank.Name)
		}
	}
	return names
}

// others returns the members that are most likely to have stored the content: the next ones in the order of ownership.
func (r *Relay) others(q route.Request) []string {
	var names []string
	for _, rank := range r.opts.Peers.Rank(r.Key(q)) {
		if rank.Self || rank.Suspect || r.denied.has(r.Key(q), rank.Name) {
			continue
		}
		if names = append(names, rank.Name); len(names) == maxStoredAsked {
			break
		}
	}
	return names
}

// firstUntried returns the first name that has not been tried, or "".
func firstUntried(names []string, tried map[string]bool) string {
	if len(tried) >= maxOwners {
		return ""
	}
	if i := slices.IndexFunc(names, func(name string) bool { return !tried[name] }); i >= 0 {
		return names[i]
	}
	return ""
}

// nextOwner returns the next member to ask, or "" if there is none, and whether it is this replica's turn.
func (r *Relay) nextOwner(q route.Request, tried map[string]bool, triedSelf bool) (name string, self bool) {
	key := r.Key(q)
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

// URI returns the URI for a request to a member.
func URI(q route.Request) string {
	var b strings.Builder
	b.WriteString(q.URI())
	if q.Query == "" {
		b.WriteByte('?')
	} else {
		b.WriteByte('&')
	}
	b.WriteString("ns=")
	b.WriteString(q.Upstream) // no escaping needed: a query may contain the characters of a host
	return b.String()
}

// A peerError is an error from a member that is passed on to clients.
type peerError struct {
	route.StatusError
	after string // Retry-After
	age   time.Duration
	at    time.Time
}

// Unwrap returns the status, code and message.
func (e *peerError) Unwrap() error { return &e.StatusError }

// Age returns the time since the upstream returned the error.
func (e *peerError) Age() time.Duration { return e.age + time.Since(e.at) }

// Header returns the headers for the client.
func (e *peerError) Header() http.Header {
	h := http.Header{}
	if e.after != "" {
		h.Set("Retry-After", e.after)
	}
	return h
}

// isOutage reports whether a status says nothing about the content, so that another replica may have it. This includes
// every status below 400 except 200, which must not reach a client: it might mistake the body for the content.
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
	errSilent   = errors.New("the member is silent and does not answer its probe")
	errStalled  = errors.New("the member is alive, but has stopped sending")
	errWrong    = fmt.Errorf("the fill of another replica: %w", store.ErrDigest)
	errBroken   = errors.New("the fill of another replica has failed twice")
	errDigest   = errors.New("the manifest does not match the digest")
	errTooLarge = errors.New("the error response is too large")
)
