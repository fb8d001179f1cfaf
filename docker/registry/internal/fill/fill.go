// SPDX-License-Identifier: GPL-3.0-or-later

// Package fill serves blobs from the store or from a fill, which is a single transfer of a blob from an upstream.
//
// All clients that ask for a blob during its transfer share the fill, each at its own offset and speed. A fill does not
// belong to the client that started it: it continues after its clients have left, so that content from a slow upstream
// arrives eventually. It is limited by the time for which the upstream may be silent (Options.Stall) and by the number
// of fills without clients (Options.Abandoned).
//
// If repositories share blobs, one fill serves the clients of all repositories. But one repository may be slow while
// others are not: a client that has waited a second for the first byte of another repository's fill starts a fill from
// its own repository. The fill that receives the first byte serves all clients, and the others end.
//
// If a fill fails before its first byte, its clients and those of the next two seconds get an error. If it fails later,
// the connections of its clients are cut, so that no client mistakes a part for the whole blob.
package fill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

var (
	// ErrStalled is the error of a fill whose upstream sent nothing for Options.Stall.
	ErrStalled = errors.New("the upstream sent nothing for too long")

	errAbandoned = errors.New("all clients have left, and the fill is redundant or too many others continue without clients")
	errClosed    = errors.New("the cache is shutting down")
)

const (
	// fetchGrace is how long a fetch may take to return after its context is done.
	fetchGrace = 5 * time.Second
	// windowStall is the minimum stall time for a fill without room in the store. Such a fill waits for its readers,
	// and slow readers are dropped only after some time.
	windowStall = time.Minute
	// otherPatience is how long a client waits for the first byte of another repository's fill before it starts one
	// from its own repository.
	otherPatience = time.Second
)

// A Fetcher fetches blobs from one upstream.
type Fetcher interface {
	// Fetch writes a blob into the Growing and stores it, linked to the request's repository. If it does not call
	// SetSize before the first byte, responses have no Content-Length, and range requests get the whole blob. It must
	// return soon after its context is done. If the error wraps a *route.StatusError, clients get that as the response,
	// with the Retry-After from the error's Header method if it has one.
	Fetch(context.Context, route.Request, *store.Growing) error
}

// Options configure a Handler. Store, Fetcher and Log are required.
type Options struct {
	Store   *store.Upstream
	Fetcher Fetcher
	// Share serves a blob fetched from one repository to requests for other repositories. Errors are never shared
	// between repositories.
	Share bool
	// Stall is how long an upstream may send nothing before its fill ends; 0 means no limit.
	Stall time.Duration
	// Wait is how long a client waits for the first byte before it gets a 504; 0 means no limit. The fill continues.
	Wait time.Duration
	// Abandoned is how many fills may continue without clients.
	Abandoned int
	// Next serves the requests that Pass selects or the Fetcher refuses with ErrNext. It may be nil.
	Next *Handler
	Pass func(route.Request) bool
	Log  *slog.Logger
}

// Stats is a snapshot of a Handler.
type Stats struct {
	Running   int   // fills
	Abandoned int   // fills without clients, included in Running
	Fetches   int64 // fills started
	Shared    int64 // requests that joined a running fill
	Failed    int64 // fills that failed
	Stalled   int64 // fills that failed because the upstream was silent, included in Failed
}

// A Handler serves the blobs of one upstream.
type Handler struct {
	opts    Options
	ctx     context.Context
	stop    context.CancelCauseFunc
	running sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	groups   map[route.Request]*group
	failures failures
	wrong    failures // failures because of wrong bytes
	broken   brokenRelays
	stats    Stats
}

// New returns a Handler for one upstream.
func New(o Options) *Handler {
	h := &Handler{
		opts: o, groups: map[route.Request]*group{},
		failures: failures{time: failureTTL}, wrong: failures{time: wrongTTL},
	}
	h.ctx, h.stop = context.WithCancelCause(context.Background())
	return h
}

// Close aborts all fills and waits for them.
func (h *Handler) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.stop(errClosed)
	h.running.Wait()
}

// Stats returns the handler's counters.
func (h *Handler) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stats
}

// A group is the set of fills of the same blob that may serve the same clients: at most one per repository.
type group struct {
	key       route.Request
	fills     []*fill // oldest first
	hasLeader chan struct{}
	// leader is the first fill with something to read. Read it only after led is closed.
	leader *fill
}

// A fill is one transfer of a blob.
type fill struct {
	group   *group
	request route.Request // of the client that started it
	ctx     context.Context
	cancel  context.CancelCauseFunc

	growing *store.Growing
	stored  atomic.Bool   // the blob comes from another replica's store
	done    chan struct{} // closed when the fill has ended
	err     error         // valid after done is closed

	// Guarded by Handler.mu.
	clients   int
	abandoned bool
	over      bool
}

// key returns the part of a request that is the same for all requests that may share a fill.
func (h *Handler) key(q route.Request) route.Request {
	if h.opts.Share {
		q.Repository = ""
	}
	return q
}

// pick returns the fill that a client should wait for, or nil if it should start one.
func (g *group) pick(repository string, own bool) *fill {
	if g.leader != nil {
		return g.leader
	}
	for _, f := range g.fills {
		if f.request.Repository == repository {
			return f
		}
	}
	if own || len(g.fills) == 0 {
		return nil
	}
	return g.fills[0]
}

// join adds a client to a fill that may serve it. With own, that is the fill of its repository, unless another fill
// already has something to read. If a fill of the same request has just failed, join returns its error. If the blob is
// in the store by now, it returns neither a fill nor an error. The first client must start the fill by calling run.
func (h *Handler) join(q route.Request, own bool) (f *fill, first bool, err error) {
	key := h.key(q)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, false, errClosed
	}
	g := h.groups[key]
	if g == nil {
		g = &group{key: key, hasLeader: make(chan struct{})}
	}
	if f = g.pick(q.Repository, own); f != nil {
		if !own { // with own, it has already been counted
			h.stats.Shared++
		}
		h.addClientLocked(f)
		return f, false, nil
	}
	if err := h.failures.get(q, time.Now()); err != nil {
		return nil, false, err
	}
	// Look in the store after looking for a fill: a fill leaves its group only after its blob is stored.
	if _, ok := h.lookup(q); ok {
		return nil, false, nil
	}
	f = &fill{group: g, request: q, clients: 1, growing: h.opts.Store.Grow(q.Digest, -1), done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancelCause(h.ctx)
	g.fills = append(g.fills, f)
	h.groups[key] = g
	h.stats.Fetches++
	h.stats.Running++
	h.running.Add(1)
	return f, true, nil
}

// addClient adds a client to a fill.
func (h *Handler) addClient(f *fill) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addClientLocked(f)
}

func (h *Handler) addClientLocked(f *fill) {
	f.clients++
	h.setAbandonedLocked(f, false)
}

// removeClient removes a client from its fill. A fill without clients continues if fewer than Options.Abandoned others
// do and no other fill serves its clients. Once allowed, it may continue to its end, however many others start.
func (h *Handler) removeClient(f *fill) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.clients--; f.clients > 0 || f.over {
		return
	}
	if state, _ := f.growing.State(); state != store.InProgress {
		return // it is about to end: it is being stored, or has failed
	}
	// Continuing is pointless in a window, which does not store the blob.
	if h.stats.Abandoned >= h.opts.Abandoned || f.growing.Windowed() || f.isRedundant() {
		h.abortLocked(f)
		return
	}
	h.setAbandonedLocked(f, true)
}

// isRedundant reports whether another fill serves this fill's clients.
func (f *fill) isRedundant() bool { return f.group.leader != nil && f.group.leader != f }

// setLeader makes a fill the leader of its group, unless there is one.
func (h *Handler) setLeader(f *fill) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.setLeaderLocked(f)
}

func (h *Handler) setLeaderLocked(f *fill) {
	g := f.group
	if g.leader != nil || !slices.Contains(g.fills, f) {
		return
	}
	g.leader = f
	close(g.hasLeader)
	for _, other := range slices.Clone(g.fills) {
		if other != f && other.clients == 0 {
			h.abortLocked(other)
		}
	}
}

// abortLocked aborts a fill without clients, and detaches it, so that no client joins a fill that is about to fail.
func (h *Handler) abortLocked(f *fill) {
	h.detachLocked(f)
	h.setAbandonedLocked(f, false)
	f.cancel(errAbandoned)
}

func (h *Handler) setAbandonedLocked(f *fill, abandoned bool) {
	switch {
	case abandoned && !f.abandoned:
		h.stats.Abandoned++
	case !abandoned && f.abandoned:
		h.stats.Abandoned--
	}
	f.abandoned = abandoned
}

// detach removes a fill from its group, so that no more clients can join it.
func (h *Handler) detach(f *fill) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.detachLocked(f)
}

func (h *Handler) detachLocked(f *fill) {
	g := f.group
	g.fills = slices.DeleteFunc(g.fills, func(other *fill) bool { return other == f })
	if h.groups[g.key] == g && (g.leader == f || len(g.fills) == 0) {
		delete(h.groups, g.key)
	}
}

// run starts the fetch. The first client calls it after adding its reader, since a fill without room in the store
// discards bytes that no reader waits for.
func (h *Handler) run(f *fill) {
	go func() {
		defer h.running.Done()
		var watching sync.WaitGroup
		if r, err := f.growing.NewReader(f.ctx, 0); err == nil {
			watching.Go(func() { h.watch(f, r) })
		}
		err := h.fetch(f)
		h.end(f, err)
		f.cancel(nil)
		watching.Wait()
	}()
}

// watch makes the fill the leader once it has something to read.
func (h *Handler) watch(f *fill, r *store.Reader) {
	defer r.Close()
	var first [1]byte
	if n, _ := r.Read(first[:]); n > 0 {
		h.setLeader(f)
	}
}

// fetch fetches the blob. It returns nil if the blob is complete, or already in the store.
func (h *Handler) fetch(f *fill) error {
	err := h.watchdog(f)
	if err == nil && f.growing.Written() == 0 {
		if _, ok := h.lookup(f.request); ok {
			return nil
		}
	}
	f.growing.Finish(err)
	state, cause := f.growing.State()
	if errors.Is(err, ErrNext) || errors.Is(err, ErrAgain) {
		return err
	}
	if state == store.Complete && err != nil {
		h.opts.Log.Debug("Received a blob, but did not store it", "digest", f.request.Digest, "error", err)
	}
	return cause
}

// watchdog runs the fetch until it returns, is aborted, or receives nothing for too long.
func (h *Handler) watchdog(f *fill) error {
	result := make(chan error, 1)
	go func() { result <- h.callFetcher(f) }()
	var tick <-chan time.Time
	if h.opts.Stall > 0 {
		t := time.NewTicker(max(h.opts.Stall/8, time.Millisecond))
		defer t.Stop()
		tick = t.C
	}
	written, moved := int64(0), time.Now()
	for {
		select {
		case err := <-result:
			return err
		case <-f.ctx.Done():
			cause := context.Cause(f.ctx)
			select {
			case <-result:
			case <-time.After(fetchGrace):
				h.opts.Log.Error("A canceled fetch did not return", "upstream", f.request.Upstream, "digest", f.request.Digest)
			}
			return cause
		case now := <-tick:
			limit := h.opts.Stall
			if f.growing.Windowed() {
				limit = max(limit, windowStall)
				h.abortUnread(f)
			}
			if n := f.growing.Written(); n != written {
				written, moved = n, now
			} else if now.Sub(moved) >= limit {
				f.cancel(ErrStalled)
			}
		}
	}
}

// abortUnread aborts a fill that turned out to have no room in the store after its clients had left.
func (h *Handler) abortUnread(f *fill) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.clients == 0 {
		h.abortLocked(f)
	}
}

// callFetcher calls the Fetcher. It turns a panic into an error.
func (h *Handler) callFetcher(f *fill) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		err = fmt.Errorf("the fetch panicked: %v", p)
		if p != http.ErrAbortHandler { // distribution's handler panics with it to cut an incomplete body
			h.opts.Log.Error("A fetch panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	return h.opts.Fetcher.Fetch(context.WithValue(f.ctx, fillKey{}, f), f.request, f.growing)
}

// end reports the result of the fill to its clients. Later clients find the blob in the store or start a new fill.
func (h *Handler) end(f *fill, err error) {
	h.mu.Lock()
	h.setAbandonedLocked(f, false)
	f.over, f.err = true, err
	h.stats.Running--
	if err != nil {
		h.stats.Failed++
		if errors.Is(err, ErrStalled) {
			h.stats.Stalled++
		}
		if h.shareErrorLocked(f, time.Now()) {
			h.failures.add(f.request, err, time.Now())
		}
	}
	close(f.done)
	if err == nil { // clients that wait for other fills find the blob here or in the store
		h.setLeaderLocked(f)
	}
	h.detachLocked(f)
	h.mu.Unlock()
	f.growing.Close()
	if err != nil {
		h.logFailure(f, err)
	}
}

// foundInStore reports whether the fill ended without bytes because the blob was already in the store.
func (f *fill) foundInStore() bool {
	select {
	case <-f.done:
		state, _ := f.growing.State()
		return f.err == nil && state != store.Complete
	default:
		return false
	}
}

// isWrong reports whether the bytes are known to be wrong, so that no client may start reading them.
func (f *fill) isWrong() bool {
	_, cause := f.growing.State()
	return isWrong(cause)
}

// isWrong reports whether a fill failed because its bytes are wrong.
func isWrong(cause error) bool {
	return errors.Is(cause, store.ErrDigest) || errors.Is(cause, store.ErrLong)
}

// wait waits until the fill has ended. If ctx is done first, it returns the cause.
func (f *fill) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// shareErrorLocked reports whether the next clients get the fill's error. They do not if a client may resume where it
// was cut, or if the bytes were wrong for the first time, since that may have been an accident.
func (h *Handler) shareErrorLocked(f *fill, now time.Time) bool {
	switch {
	case errors.Is(f.err, errAbandoned), errors.Is(f.err, errClosed), errors.Is(f.err, ErrAgain),
		errors.Is(f.err, ErrNext):
		return false
	case isWrong(f.err):
		again := h.wrong.get(f.request, now) != nil
		h.wrong.add(f.request, f.err, now)
		return again
	}
	return f.growing.Written() == 0
}

// logFailure logs the error of a fill.
func (h *Handler) logFailure(f *fill, err error) {
	level := slog.LevelWarn
	var refusal *route.StatusError
	if errors.As(err, &refusal) && refusal.Status < 500 || errors.Is(err, errAbandoned) || errors.Is(err, errClosed) ||
		errors.Is(err, ErrNext) || errors.Is(err, ErrAgain) {
		level = slog.LevelDebug
	}
	h.opts.Log.Log(context.Background(), level, "A fill failed", "upstream", f.request.Upstream,
		"repository", f.request.Repository, "digest", f.request.Digest, "bytes", f.growing.Written(), "error", err)
}
