// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"sync"
	"sync/atomic"
	"time"
)

// A watch detects that an exchange receives no bytes although they are due. A nil *watch does nothing.
type watch struct {
	x     *exchange
	armed atomic.Bool // bytes are due
	moved atomic.Bool // bytes have arrived since the last step

	mu      sync.Mutex
	stopped bool
	timer   *time.Timer

	// Used only by steps.
	silence stepClock
	next    time.Duration // duration of silence after which the member is marked suspect again
}

func newWatch(x *exchange) *watch {
	w := &watch{x: x, silence: newStepClock(0), next: suspectAfter}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(step, w.tick)
	return w
}

// arm is called when bytes are due.
func (w *watch) arm() {
	if w != nil {
		w.moved.Store(true)
		w.armed.Store(true)
	}
}

// disarm is called when bytes have arrived, or the caller is not reading, which is not the member's fault.
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

// tick counts a step of silence and marks the member if necessary.
func (w *watch) tick() {
	switch {
	case !w.armed.Load() || w.moved.Swap(false):
		w.silence, w.next = newStepClock(0), suspectAfter
	case !w.silence.tick(w.next):
	case w.x.hasUnread(): // this process is starved
		w.silence, w.next = newStepClock(0), suspectAfter
	default:
		first := w.next == suspectAfter
		w.next += suspectAfter // a member that answers its probe now may be gone by then
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
