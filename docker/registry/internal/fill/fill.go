// SPDX-License-Identifier: GPL-3.0-or-later

// Package fill serves blobs: from the store, or from a fill, which is the one transfer of a blob from an upstream.
//
// All clients that ask for a blob while it comes share its fill, each at its own offset and pace. A fill is not the
// request of the client that began it: it goes on after its clients have left, so that a slow upstream's content arrives.
// What bounds it is silence (Options.Stall), and how many fills without clients there may be (Options.Abandoned).
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
	"sync"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

var (
	// ErrStalled is how a fill ends whose upstream was silent for too long.
	ErrStalled = errors.New("the upstream sent nothing for too long")

	errAbandoned = errors.New("no client is left, and enough other fills go on without one")
	errClosed    = errors.New("the cache is shutting down")
)

const (
	// grace is how long a fetch may take to return after its context has ended.
	grace = 5 * time.Second
	// windowStall is the least time of silence that ends a fill without room in the store. Such a fill waits for its
	// readers, which are dropped only after a while.
	windowStall = time.Minute
)

// A Fetcher fetches a blob of one upstream.
type Fetcher interface {
	// Fetch writes a blob into the Growing and keeps it in the store, linked in the request's repository. Without a SetSize
	// before the first byte, answers have no Content-Length, and ranges get the whole. It returns soon after its context has
	// ended. A *route.Refusal in its error is what clients are answered, with the Retry-After of the
	// error's Header method if it has one.
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
	Log       *slog.Logger
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
	fills    map[route.Request]*fill
	failures failures
	stats    Stats
}

// New returns a handler for one upstream.
func New(o Options) *Handler {
	h := &Handler{opts: o, fills: map[route.Request]*fill{}}
	h.ctx, h.stop = context.WithCancelCause(context.Background())
	return h
}

// Close ends all fills and waits for them.
func (h *Handler) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.stop(errClosed)
	h.running.Wait()
}

// Stats returns what the handler counts.
func (h *Handler) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stats
}

// A fill is one fetch of a blob.
type fill struct {
	key     route.Request
	request route.Request // of the client that began it
	ctx     context.Context
	cancel  context.CancelCauseFunc

	growing *store.Growing
	begun   chan struct{} // closed when there is something to read
	done    chan struct{} // closed at the end
	err     error         // after done

	// Guarded by Handler.mu.
	clients   int
	abandoned bool
	over      bool
}

// key returns what requests that share a fill have in common.
func (h *Handler) key(q route.Request, share bool) route.Request {
	if share {
		q.Repository = ""
	}
	return q
}

// join makes a client one of a fill's. It returns the error of a fill of the same request that has just failed, and
// neither if the blob is in the store by now. The one who is first starts the fill, with run.
func (h *Handler) join(q route.Request, share bool) (f *fill, first bool, err error) {
	key := h.key(q, share)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, false, errClosed
	}
	if f = h.fills[key]; f != nil {
		f.clients++
		h.stats.Shared++
		h.setAbandonedLocked(f, false)
		return f, false, nil
	}
	if err := h.failures.recall(q, time.Now()); err != nil {
		return nil, false, err
	}
	// A fill leaves the map after its blob was stored, so it is looked for in this order.
	if _, ok := h.has(q); ok {
		return nil, false, nil
	}
	f = &fill{
		key: key, request: q, clients: 1, growing: h.opts.Store.Grow(q.Digest, -1),
		begun: make(chan struct{}), done: make(chan struct{}),
	}
	f.ctx, f.cancel = context.WithCancelCause(h.ctx)
	h.fills[key] = f
	h.stats.Fetches++
	h.stats.Running++
	h.running.Add(1)
	return f, true, nil
}

// leave takes a client from its fill. A fill without clients goes on if there is a place for it. Those that have a place
// keep it, so that they end some time, however many come.
func (h *Handler) leave(f *fill) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.clients--; f.clients > 0 || f.over {
		return
	}
	// What goes through a window is not kept.
	if h.stats.Abandoned >= h.opts.Abandoned || f.growing.Windowed() {
		h.abortLocked(f)
		return
	}
	h.setAbandonedLocked(f, true)
}

// abortLocked ends a fill that has no clients. Nobody may join what is about to fail.
func (h *Handler) abortLocked(f *fill) {
	h.detachLocked(f)
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

// detach lets nobody join a fill any more.
func (h *Handler) detach(f *fill) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.detachLocked(f)
}

func (h *Handler) detachLocked(f *fill) {
	if h.fills[f.key] == f {
		delete(h.fills, f.key)
	}
}

// run fetches the blob. The first client calls it when its reader is there, since a fill without room in the store loses
// its beginning to those who come later.
func (h *Handler) run(f *fill) {
	go func() {
		defer h.running.Done()
		var watching sync.WaitGroup
		if r, err := f.growing.NewReader(f.ctx, 0); err == nil {
			watching.Go(func() { watch(r, f.begun) })
		}
		err := h.fetch(f)
		h.end(f, err)
		f.cancel(nil)
		watching.Wait()
	}()
}

// watch closes begun when a reader at the beginning has something to read.
func watch(r *store.Reader, begun chan<- struct{}) {
	defer r.Close()
	var first [1]byte
	if n, _ := r.Read(first[:]); n > 0 {
		close(begun)
	}
}

// fetch returns nil if the blob came whole, or is in the store without having come.
func (h *Handler) fetch(f *fill) error {
	err := h.watchdog(f)
	if err == nil && f.growing.Written() == 0 {
		if _, ok := h.has(f.request); ok {
			return nil
		}
	}
	f.growing.Finish(err)
	state, cause := f.growing.State()
	if state == store.Whole && err != nil {
		h.opts.Log.Debug("A blob came whole, but was not kept", "digest", f.request.Digest, "error", err)
	}
	return cause
}

// watchdog runs the fetch until it ends, is aborted, or is silent for too long.
func (h *Handler) watchdog(f *fill) error {
	result := make(chan error, 1)
	go func() { result <- h.call(f) }()
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
			case <-time.After(grace):
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

// call is the fetch. A panic of the code behind it ends the fill, not the process.
func (h *Handler) call(f *fill) (err error) {
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
	return h.opts.Fetcher.Fetch(f.ctx, f.request, f.growing)
}

// end tells the clients how the fill has ended. Those who come now find the blob in the store, or begin anew.
func (h *Handler) end(f *fill, err error) {
	h.mu.Lock()
	h.detachLocked(f)
	h.setAbandonedLocked(f, false)
	f.over, f.err = true, err
	h.stats.Running--
	if err != nil {
		h.stats.Failed++
		if errors.Is(err, ErrStalled) {
			h.stats.Stalled++
		}
		if f.shareError() {
			h.failures.remember(f.request, err, time.Now())
		}
	}
	close(f.done)
	h.mu.Unlock()
	f.growing.Close()
	if err != nil {
		h.report(f, err)
	}
}

// shareError reports whether those who ask next get the fill's error. They do not if a client may go on from where it was
// cut, unless another fetch would bring the same wrong bytes.
func (f *fill) shareError() bool {
	switch {
	case errors.Is(f.err, errAbandoned), errors.Is(f.err, errClosed):
		return false
	case errors.Is(f.err, store.ErrDigest), errors.Is(f.err, store.ErrLong):
		return true
	}
	return f.growing.Written() == 0
}

func (h *Handler) report(f *fill, err error) {
	level := slog.LevelWarn
	var refusal *route.Refusal
	if errors.As(err, &refusal) && refusal.Status < 500 || errors.Is(err, errAbandoned) || errors.Is(err, errClosed) {
		level = slog.LevelDebug
	}
	h.opts.Log.Log(context.Background(), level, "A fill failed", "upstream", f.request.Upstream,
		"repository", f.request.Repository, "digest", f.request.Digest, "bytes", f.growing.Written(), "error", err)
}
