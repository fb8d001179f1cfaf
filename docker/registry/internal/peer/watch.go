// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"sync"
	"sync/atomic"
	"time"
)

// A watch notices that bytes of an exchange are missing. A nil *watch watches nothing.
type watch struct {
	x     *exchange
	armed atomic.Bool // bytes are waited for
	moved atomic.Bool // since the last step

	mu      sync.Mutex
	stopped bool
	timer   *time.Timer

	// Of the steps only:
	silence stepClock
	next    time.Duration // of silence, at which the member is suspect again
}

func newWatch(x *exchange) *watch {
	w := &watch{x: x, silence: newStepClock(0), next: suspectAfter}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(step, w.tick)
	return w
}

// arm starts to wait for bytes.
func (w *watch) arm() {
	if w != nil {
		w.moved.Store(true)
		w.armed.Store(true)
	}
}

// disarm stops to wait for bytes, since some came or the caller does not read, which is not the member's fault.
func (w *watch) disarm() {
	if w != nil {
		w.armed.Store(false)
	}
}

func (w *watch) stop() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
}

// tick counts a step of silence and acts on it.
func (w *watch) tick() {
	switch {
	case !w.armed.Load() || w.moved.Swap(false):
		w.silence, w.next = newStepClock(0), suspectAfter
	case !w.silence.tick(w.next):
	case w.x.hasUnread(): // this process is starved
		w.silence, w.next = newStepClock(0), suspectAfter
	default:
		first := w.next == suspectAfter
		w.next += suspectAfter // one that answers its probe now may be gone then
		w.x.m.markSuspect(suspectAfter, "it is silent")
		if told := w.x.silent; told != nil && first {
			told()
		}
	}
	if w.x.m.state() == Out && (w.next > suspectAfter || w.x.m.silent.Load() && w.silence.sum > 0 && !w.x.hasUnread()) {
		w.x.cancel(errSilent)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped && w.x.ctx.Err() == nil {
		w.timer.Reset(step)
	}
}
