// SPDX-License-Identifier: GPL-3.0-or-later

package relay

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
)

const (
	// patience is how long a member may be suspect that is silent to us: it is probed at once and after half a second.
	patience = 450 * time.Millisecond
	// look is how often that is looked at.
	look = 50 * time.Millisecond
	// storedPatience is how long the answer to what a member has stored is waited for. It does not wait for anything itself.
	storedPatience = 450 * time.Millisecond
	// storedSilence is how long the next bytes of it are waited for, even if the member answers its probes: its disk may hang.
	storedSilence = 3 * time.Second
)

// An ask is one request to a member, until its body was read.
type ask struct {
	*http.Response
	peers  Peers
	name   string
	ctx    context.Context
	cancel context.CancelCauseFunc
	moved  atomic.Int64  // how many times bytes came
	silent time.Duration // how long the next ones are waited for; 0: as long as the member lives
	once   sync.Mutex    // one watch at a time
}

// do asks a member. The answer must be closed. The error is that of Peers.Do, or errSilent.
func do(ctx context.Context, peers Peers, name, uri string, header http.Header, call peer.CallOptions) (*ask, error) {
	a := &ask{peers: peers, name: name}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	if call.Reserve == nil {
		call.Reserve = none
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

// ask asks a member. Meanwhile this replica looks whether the upstream is out, unless that is soon known.
func (r *Relay) ask(ctx context.Context, name string, q route.Request, header http.Header, call peer.CallOptions) (*ask, error) {
	if call.Out = r.opts.Health.WasOut(); !call.StoreOnly {
		after, begun := doubtAfter, time.Now()
		if call.Out {
			after = 0
		}
		defer time.AfterFunc(after, func() { r.opts.Health.Out(begun) }).Stop()
	}
	return do(ctx, r.opts.Peers, name, uri(q), header, call)
}

// none has no room for a large error, whose memory nobody counts.
func none(context.Context, int64) error { return errLarge }

// Read reads the body.
func (a *ask) Read(b []byte) (int, error) {
	if a.silent > 0 {
		defer time.AfterFunc(a.silent, func() { a.cancel(errStops) }).Stop()
	}
	n, err := a.Body.Read(b)
	if n > 0 {
		a.moved.Add(1)
	}
	if cause := context.Cause(a.ctx); err != nil && (cause == errSilent || cause == errStops) {
		err = cause
	}
	return n, err
}

// Close ends the request.
func (a *ask) Close() {
	a.cancel(nil)
	_ = a.Body.Close() // what was read is all that is wanted
}

// watch gives the member up once it has been suspect for some time. It ends with the first bytes that come.
func (a *ask) watch() {
	if !a.once.TryLock() {
		return
	}
	defer a.once.Unlock()
	moved := a.moved.Load()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	suspect := time.Duration(0)
	for a.moved.Load() == moved {
		select {
		case <-a.ctx.Done():
			return
		case <-ticker.C:
		}
		if a.peers.State(a.name) != peer.Suspect {
			suspect = 0
			continue
		}
		// A tick that comes late, since this process is starved, counts once.
		if suspect += look; suspect >= patience {
			a.cancel(errSilent)
			return
		}
	}
}
