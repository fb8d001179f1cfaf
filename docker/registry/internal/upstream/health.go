// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"sync"
	"time"
)

// health tracks whether the upstream as a whole is down.
type health struct {
	limits Limits
	ask    func() *requestError // requests the challenge

	mu    sync.Mutex
	seen  time.Time // time of the last response, with any status
	until time.Time // the upstream is not asked again before this time
	why   *requestError
	probe *probe // the running probe
}

type probe struct {
	done chan struct{}
	dead *requestError // nil if the upstream responded
}

func newHealth(limits Limits, ask func() *requestError) *health {
	return &health{limits: limits, ask: ask}
}

// outage returns the reason why the upstream is not asked now, or nil if it may be asked.
func (h *health) outage() *requestError {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Now().Before(h.until) {
		return h.why
	}
	return nil
}

// wasDown reports whether the upstream was down when it was last asked, however long ago.
func (h *health) wasDown() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.until.IsZero()
}

// answered records that the upstream has responded.
func (h *health) answered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen, h.until = time.Now(), time.Time{}
}

// check checks the upstream for a request that started at since and has no response. It requests the challenge, unless
// the upstream has responded to anything since then. It returns the reason if the upstream is down, or nil if only the
// request is slow. Concurrent callers share one challenge.
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
