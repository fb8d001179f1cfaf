// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import "time"

// budget is a token bucket that may be overdrawn. The caller locks.
type budget struct {
	size float64 // tokens when it is full
	rate float64 // tokens per second that come back
	owed float64 // tokens taken and not come back at time at
	at   time.Time
}

// debt returns the tokens that are missing from a full budget.
func (b *budget) debt(now time.Time) float64 {
	return max(0, b.owed-b.rate*now.Sub(b.at).Seconds())
}

// take takes tokens, even if the bucket has fewer.
func (b *budget) take(now time.Time, tokens float64) {
	b.owed, b.at = b.debt(now)+tokens, now
}

// until returns the time until the bucket has this many tokens, 0 if it has them now.
func (b *budget) until(now time.Time, tokens float64) time.Duration {
	missing := tokens - (b.size - b.debt(now))
	if missing <= 0 {
		return 0
	}
	// The extra millisecond covers rounding.
	return time.Duration(missing/b.rate*float64(time.Second)) + time.Millisecond
}
