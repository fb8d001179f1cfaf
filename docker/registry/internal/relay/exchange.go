// SPDX-License-Identifier: GPL-3.0-or-later

package relay

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/peer"
)

const (
	// suspectPatience is how long a silent member may be suspect before it is given up. It is probed at once and after
	// half a second.
	suspectPatience = 400 * time.Millisecond
	// watchInterval is the interval at which the state of a silent member is checked.
	watchInterval = 50 * time.Millisecond
	// storedPatience is how long to wait for an answer about stored content. The member answers without waiting for
	// anything.
	storedPatience = 400 * time.Millisecond
	// storedSilence is how long to wait for the next bytes of stored content, even if the member answers its probes,
	// since its disk may hang.
	storedSilence = 3 * time.Second
)

// An exchange is one request to a member and its response.
type exchange struct {
	*http.Response
	peers  Peers
	name   string
	ctx    context.Context
	cancel context.CancelCauseFunc
	moved  atomic.Int64  // number of reads that returned bytes
	silent time.Duration // how long to wait for the next bytes; 0 means as long as the member is alive
	once   sync.Mutex    // serializes watches
}

// newExchange sends a request to a member and waits for the response, which the caller must close. The error is that of
// Peers.Do, or errSilent.
func newExchange(ctx context.Context, peers Peers, name, uri string, header http.Header, call peer.CallOptions) (*exchange, error) {
	a := &exchange{peers: peers, name: name}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	if call.Reserve == nil {
		call.Reserve = rejectLarge
	}
	call.Silent = func() { go a.watch() }
	if peers.State(name) == peer.Suspect {
		go a.watch()
	}
	resp, err := peers.Do(a.ctx, name, http.MethodGet, uri, header, call)
	a.moved.Add(1)
	if err != nil {
		if context.Cause(a.ctx) == errSilent {
			err = errSilent
		}
		a.cancel(nil)
		return nil, err
	}
	a.Response = resp
	return a, nil
}

// ask sends a request to a member. If the response takes long, it checks whether the upstream is down.
func (r *Relay) ask(ctx context.Context, name, uri string, header http.Header, call peer.CallOptions) (*exchange, error) {
	if call.UpstreamDown = r.opts.Health.WasDown(); !call.StoreOnly {
		after, begun := doubtAfter, time.Now()
		if call.UpstreamDown {
			after = 0
		}
		defer time.AfterFunc(after, func() { r.opts.Health.IsDown(begun) }).Stop()
	}
	return newExchange(ctx, r.opts.Peers, name, uri, header, call)
}

// rejectLarge rejects large responses with an error status, for which no memory is reserved.
func rejectLarge(context.Context, int64) error { return errTooLarge }

// Read reads from the body.
func (x *exchange) Read(b []byte) (int, error) {
	if x.silent > 0 {
		defer time.AfterFunc(x.silent, func() { x.cancel(errStalled) }).Stop()
	}
	n, err := x.Body.Read(b)
	if n > 0 {
		x.moved.Add(1)
	}
	if cause := context.Cause(x.ctx); err != nil && (cause == errSilent || cause == errStalled) {
		err = cause
	}
	return n, err
}

// Close cancels the request and closes the body.
func (x *exchange) Close() {
	x.cancel(nil)
	_ = x.Body.Close() // errors do not matter after the last read
}

// watch gives up the member when it has been suspect for suspectPatience. It returns when bytes arrive.
func (x *exchange) watch() {
	if !x.once.TryLock() {
		return
	}
	defer x.once.Unlock()
	moved := x.moved.Load()
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	suspect := time.Duration(0)
	for x.moved.Load() == moved {
		select {
		case <-x.ctx.Done():
			return
		case <-ticker.C:
		}
		if x.peers.State(x.name) != peer.Suspect {
			suspect = 0
			continue
		}
		// A late tick, because this process was starved of CPU, counts once.
		if suspect += watchInterval; suspect >= suspectPatience {
			x.cancel(errSilent)
			return
		}
	}
}
