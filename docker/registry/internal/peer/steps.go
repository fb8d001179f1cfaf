// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"context"
	"time"
)

const (
	// step is the interval at which silence is checked.
	step = 100 * time.Millisecond
	// stepLimit is the maximum time that one step adds.
	stepLimit = 3 * step
)

// A stepClock counts time in steps. A late step, because this process was starved of CPU or stopped, adds at most
// stepLimit and is never the last one: bytes that have arrived are read before the next step, so that no member is
// blamed for the delay.
type stepClock struct {
	last time.Time
	sum  time.Duration
}

// newStepClock returns a stepClock that starts now, with the time sum already counted.
func newStepClock(sum time.Duration) stepClock { return stepClock{time.Now(), sum} }

// tick counts a step and reports whether the limit is reached.
func (s *stepClock) tick(limit time.Duration) bool {
	before, now := s.sum, time.Now()
	took := now.Sub(s.last)
	s.sum += min(took, stepLimit)
	s.last = now
	return before >= limit || before >= limit-step && took <= stepLimit
}

// afterSteps calls f after d, counted in steps, and again after each step until f returns true or stop is called.
func afterSteps(d time.Duration, f func() bool) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	s := newStepClock(0)
	var timer *time.Timer
	armed := make(chan struct{})
	timer = time.AfterFunc(step, func() {
		<-armed
		switch {
		case ctx.Err() != nil:
		case s.tick(d) && f():
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

// waitStep waits for one step. It returns false if ctx is done first.
func waitStep(ctx context.Context) bool {
	timer := time.NewTimer(step)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
