// SPDX-License-Identifier: GPL-3.0-or-later

// Package fill serves blobs: from the store, or from a fill, which is the one transfer of a blob from an upstream.
//
// All clients that ask for a blob while it comes share its fill, each at its own offset and pace. A fill is not the
// request of the client that began it: it goes on after its clients have left, so that a slow upstream's content arrives.
// What bounds it is silence (Options.Stall), and how many fills without clients there may be (Options.Abandoned).
//
// Where repositories share blobs, one fill serves the clients of all. But a slow answer of one repository says nothing about
// the others: a client that has waited a second for the first byte of another repository's fill begins a fill of its own
// repository. The fill whose first byte comes first serves all clients, and the others end.
//
// A fill that fails before its first byte answers its clients, and those of the next two seconds, with an error. One that
// fails later cuts their connections, so that nobody takes a part for the whole.
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
	// ErrStalled is the error of a fill whose upstream was silent for too long.
	ErrStalled = errors.New("the upstream sent nothing for too long")

	errAbandoned = errors.New("no client is left, and the fill is not needed or enough others go on without one")
	errClosed    = errors.New("the cache is shutting down")
)

const (
	// fetchGrace is how long a fetch may take to return after its context has ended.
	fetchGrace = 5 * time.Second
	// windowStall is the least time of silence that ends a fill without room in the store. Such a fill waits for its
	// readers, which are dropped only after a while.
	windowStall = time.Minute
	// otherPatience is how long a client waits for the first byte of another repository's fill before it begins its own.
	otherPatience = time.Second
)

// A Fetcher fetches a blob of one upstream.
type Fetcher interface {
	// Fetch writes a blob into the Growing and keeps it in the store, linked in the request's repository. Without a SetSize
	// before the first byte, answers have no Content-Length, and ranges get the whole. It returns soon after its context has
	// ended. A *route.StatusError in its error is the answer to clients, with the Retry-After of the error's
	// Header method if it has one.
	Fetch(context.Context, route.Request, *store.Growing) error
}

// Options are those of a Handler. Store, Fetcher and Log are required.
type Options struct {
	Store   *store.Upstream
	Fetcher Fetcher
	// Share lets a blob that one repository brought serve the others. It concerns success only: a repository's error is
	// never another's.
	Share bool
	// Stall is how long an upstream may send nothing before its fill ends; 0: for ever.
	Stall time.Duration
	// Wait is how long a client waits for the first byte before it is answered with 504, while the fill goes on; 0: for
	// ever.
	Wait time.Duration
	// Abandoned is how many fills may go on without clients.
	Abandoned int
	// Next serves what Pass says, and what the Fetcher refuses with ErrNext; nil: nothing is passed on.
	Next *Handler
	Pass func(route.Request) bool
	Log  *slog.Logger
}

// Stats is a snapshot of a Handler.
type Stats struct {
	Running   int   // fills
	Abandoned int   // the part of Running that has no clients
	Fetches   int64 // fills that were begun
	Shared    int64 // requests that joined a fill
	Failed    int64 // fills that failed
	Stalled   int64 // the part of Failed that was due to silence
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
	wrong    failures // those of wrong bytes
	broken   brokenRelays
	stats    Stats
}

// New returns a handler for one upstream.
func New(o Options) *Handler {
	h := &Handler{
		opts: o, groups: map[route.Request]*group{},
		failures: failures{time: failureTTL}, wrong: failures{time: wrongTTL},
	}
	h.ctx, h.stop = context.WithCancelCause(context.Background())
	return h
}

// Close ends all fills and waits until they have ended.
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

// A group is the fills of a blob that may serve the same clients: at most one for each repository.
type group struct {
	key       route.Request
	fills     []*fill // oldest first
	hasLeader chan struct{}
	// leader is the first that had something to read. It is read after led was closed.
	leader *fill
}

// A fill is one fetch of a blob.
type fill struct {
	group   *group
	request route.Request // of the client that began it
	ctx     context.Context
	cancel  context.CancelCauseFunc

	growing *store.Growing
	stored  atomic.Bool   // it comes from what another replica has stored
	done    chan struct{} // closed at the end
	err     error         // after done

	// Guarded by Handler.mu.
	clients   int
	abandoned bool
	over      bool
}

// key returns the part of a request that is the same for all requests that share a fill.
func (h *Handler) key(q route.Request) route.Request {
	if h.opts.Share {
		q.Repository = ""
	}
	return q
}

// pick returns the fill that a client should wait for, or nil.
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

// join adds a client to a fill: to any that may serve it or, with own, to that of its repository unless another has begun to
// send. It returns the error of a fill of the same request that has just failed, and neither a fill nor an error if the blob is
// in the store by now. The first client starts the fill by calling run.
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
		if !own { // else it has joined another before
			h.stats.Shared++
		}
		h.addClientLocked(f)
		return f, false, nil
	}
	if err := h.failures.get(q, time.Now()); err != nil {
		return nil, false, err
	}
	// A fill leaves its group after its blob was stored, so it is looked for in this order.
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

// removeClient removes a client from its fill. A fill without clients goes on if there is a place for it and no other fill serves
// its clients. A fill that has a place keeps it, so that it ends at some time however many others begin.
func (h *Handler) removeClient(f *fill) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.clients--; f.clients > 0 || f.over {
		return
	}
	if state, _ := f.growing.State(); state != store.InProgress {
		return // it ends by itself: it is being kept, or known to be wrong
	}
	// What goes through a window is not kept.
	if h.stats.Abandoned >= h.opts.Abandoned || f.growing.Windowed() || f.isRedundant() {
		h.abortLocked(f)
		return
	}
	h.setAbandonedLocked(f, true)
}

// isRedundant reports whether another fill serves the clients that would wait for this one.
func (f *fill) isRedundant() bool { return f.group.leader != nil && f.group.leader != f }

// setLeader makes a fill the leader of its group, if it is the first that has something to read.
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

// abortLocked ends a fill that has no clients. Nobody may join what is about to fail.
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

// detach removes a fill from its group, so that no client can join it.
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

// run fetches the blob. The first client calls it when its reader is there, since a fill without room in the store loses
// its beginning to those who come later.
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

// watch makes the fill the leader as soon as it has something to read.
func (h *Handler) watch(f *fill, r *store.Reader) {
	defer r.Close()
	var first [1]byte
	if n, _ := r.Read(first[:]); n > 0 {
		h.setLeader(f)
	}
}

// fetch fetches the blob. It returns nil if the whole blob came, or if the store had it already.
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
		h.opts.Log.Debug("A blob came whole, but was not kept", "digest", f.request.Digest, "error", err)
	}
	return cause
}

// watchdog runs the fetch until it ends, is aborted, or is silent for too long.
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
				h.opts.Log.Error("A fetch did not end when it was told to", "upstream", f.request.Upstream, "digest", f.request.Digest)
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

// abortUnread ends a fill that found no room for what it fetches after its clients had left.
func (h *Handler) abortUnread(f *fill) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.clients == 0 {
		h.abortLocked(f)
	}
}

// callFetcher calls the Fetcher. A panic in it ends the fill, not the process.
func (h *Handler) callFetcher(f *fill) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		err = fmt.Errorf("the fetch panicked: %v", p)
		if p != http.ErrAbortHandler { // by which distribution's handler says that it cannot complete a body
			h.opts.Log.Error("A fetch panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	return h.opts.Fetcher.Fetch(context.WithValue(f.ctx, fillKey{}, f), f.request, f.growing)
}

// end tells the clients how the fill has ended. Later clients find the blob in the store or begin a new fill.
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
	if err == nil { // those who wait for another fill find the blob here, or in the store
		h.setLeaderLocked(f)
	}
	h.detachLocked(f)
	h.mu.Unlock()
	f.growing.Close()
	if err != nil {
		h.logFailure(f, err)
	}
}

// foundInStore reports whether the fill has ended without bytes because the store had the blob.
func (f *fill) foundInStore() bool {
	select {
	case <-f.done:
		state, _ := f.growing.State()
		return f.err == nil && state != store.Complete
	default:
		return false
	}
}

// isWrong reports whether the bytes are known to be wrong, so that a client must not begin to read them.
func (f *fill) isWrong() bool {
	_, cause := f.growing.State()
	return isWrong(cause)
}

// isWrong reports whether the cause of a failed fill is that its bytes are wrong.
func isWrong(cause error) bool {
	return errors.Is(cause, store.ErrDigest) || errors.Is(cause, store.ErrLong)
}

// wait waits until the fill has ended. It returns the cause of ctx if that ends first.
func (f *fill) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// shareErrorLocked reports whether the next clients get the fill's error. They do not if a client may resume where it was cut,
// or if wrong bytes came for the first time, which was an accident unless another fetch brings them again.
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
