// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"sync"
	"time"
)

// health tracks whether the upstream as a whole is out.
type health struct {
	limits Limits
	ask    func() *requestError // asks for the challenge

	mu    sync.Mutex
	seen  time.Time // the last answer, whatever it was
	until time.Time // not asked before
	why   *requestError
	probe *probe // the one that runs
}

type probe struct {
	done chan struct{}
	dead *requestError // nil: the upstream answered
}

func newHealth(limits Limits, ask func() *requestError) *health {
	return &health{limits: limits, ask: ask}
}

// outage returns the reason why the upstream is not asked now, or nil if it is.
func (h *health) outage() *requestError {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Now().Before(h.until) {
		return h.why
	}
	return nil
}

// wasOut reports whether the upstream was out when it was last asked, however long ago.
func (h *health) wasOut() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.until.IsZero()
}

// answered notes that the upstream has answered.
func (h *health) answered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen, h.until = time.Now(), time.Time{}
}

// check is called for a request that began at a time and has no answer. It asks for the challenge unless the upstream has answered
// anything since. It returns the reason if the upstream is out, or nil if only the request is slow. Concurrent callers share one
// challenge.
func (h *health) check(since time.Time) *requestError {
	h.mu.Lock()
	if h.seen.After(since) {
		h.mu.Unlock()
		return nil
	}
	p := h.probe
	if p != nil {
		h.mu.Unlock()
		<-p.done
		return p.dead
	}
	p = &probe{done: make(chan struct{})}
	h.probe = p
	h.mu.Unlock()
	p.dead = h.ask()
	h.mu.Lock()
	h.probe = nil
	if p.dead != nil && !h.seen.After(since) {
		h.until, h.why = time.Now().Add(h.limits.Remember), p.dead
	} else {
		p.dead = nil
	}
	h.mu.Unlock()
	close(p.done)
	return p.dead
}
