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
	// suspectPatience is how long a member may be suspect that is silent to us: it is probed at once and after half a second.
	suspectPatience = 450 * time.Millisecond
	// watchInterval is how often that is looked at.
	watchInterval = 50 * time.Millisecond
	// storedPatience is how long the answer to what a member has stored is waited for. It does not wait for anything itself.
	storedPatience = 450 * time.Millisecond
	// storedSilence is how long the next bytes of it are waited for, even if the member answers its probes: its disk may hang.
	storedSilence = 3 * time.Second
)

// An exchange is one request to a member with its answer.
type exchange struct {
	*http.Response
	peers  Peers
	name   string
	ctx    context.Context
	cancel context.CancelCauseFunc
	moved  atomic.Int64  // how many times bytes came
	silent time.Duration // how long the next ones are waited for; 0: as long as the member lives
	once   sync.Mutex    // one watch at a time
}

// newExchange sends a request to a member and returns it with its answer, which must be closed. The error is that of Peers.Do, or
// errSilent.
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

// ask asks a member for a URI. If the answer takes long, this replica checks meanwhile whether the upstream is out.
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

// rejectLarge rejects large errors, whose memory is not counted.
func rejectLarge(context.Context, int64) error { return errTooLarge }

// Read reads the body.
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

// Close ends the request and closes the body.
func (x *exchange) Close() {
	x.cancel(nil)
	_ = x.Body.Close() // what was read is all that is wanted
}

// watch gives up the member once it has been suspect for some time. It ends when bytes come.
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
		// A tick that comes late, since this process is starved, counts once.
		if suspect += watchInterval; suspect >= suspectPatience {
			x.cancel(errSilent)
			return
		}
	}
}
