// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import "time"

// budget is a token bucket that may be overdrawn. It is not safe for concurrent use.
type budget struct {
	size float64 // capacity in tokens
	rate float64 // tokens added per second
	owed float64 // tokens missing from a full bucket at time at
	at   time.Time
}

// debt returns the number of tokens missing from a full bucket.
func (b *budget) debt(now time.Time) float64 {
	return max(0, b.owed-b.rate*now.Sub(b.at).Seconds())
}

// take removes tokens, even if the bucket has fewer.
func (b *budget) take(now time.Time, tokens float64) {
	b.owed, b.at = b.debt(now)+tokens, now
}

// until returns the time until the bucket has this many tokens, or 0 if it has them now.
func (b *budget) until(now time.Time, tokens float64) time.Duration {
	missing := tokens - (b.size - b.debt(now))
	if missing <= 0 {
		return 0
	}
	// The extra millisecond compensates for rounding.
	return time.Duration(missing/b.rate*float64(time.Second)) + time.Millisecond
}
