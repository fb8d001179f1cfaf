// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"context"
	"time"
)

const (
	// step is how often the silence of others is looked at.
	step = 100 * time.Millisecond
	// stepLimit is the most that a step counts.
	stepLimit = 3 * step
)

// A span counts time in steps. One that comes late, since this process was starved or stopped, counts little and is never
// the last: what has arrived meanwhile is read before the next one, so that nobody is condemned for the time of another.
type span struct {
	last time.Time
	sum  time.Duration
}

// spanFrom returns a span that begins now, with a time that was counted elsewhere.
func spanFrom(sum time.Duration) span { return span{time.Now(), sum} }

// passed counts a step, and reports whether the limit is reached.
func (s *span) passed(limit time.Duration) bool {
	before, now := s.sum, time.Now()
	took := now.Sub(s.last)
	s.sum += min(took, stepLimit)
	s.last = now
	return before >= limit || before >= limit-step && took <= stepLimit
}

// after calls a function after a time in steps, and again after each step until it returns true or stop is called.
func after(d time.Duration, f func() bool) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	s := spanFrom(0)
	var timer *time.Timer
	armed := make(chan struct{})
	timer = time.AfterFunc(step, func() {
		<-armed
		switch {
		case ctx.Err() != nil:
		case s.passed(d) && f():
		default:
			timer.Reset(step)
		}
	})
	close(armed)
	return func() {
		cancel()
		timer.Stop()
	}
}

// pass waits for one step, and returns false if ctx ends before.
func pass(ctx context.Context) bool {
	timer := time.NewTimer(step)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
