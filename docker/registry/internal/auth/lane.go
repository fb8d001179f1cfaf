// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"net/netip"
	"slices"
	"time"
)

// limits are the limits of one lane.
type limits struct {
	shared   bool    // for credentials that cannot be valid
	places   int     // maximum number of different waiting credentials
	failures float64 // burst of failed checks
	rate     float64 // sustained failed checks per second
	reserve  float64 // part of failures reserved for sources without a recent failure in the lane
	refused  int     // number of refused credentials to remember
	seconds  float64 // burst of CPU time for failures of all such lanes, in seconds
	share    float64 // sustained share of CPU time for them
}

var (
	// userLimits are generous, since the user's first request may be among the guesses: 50 clients that guess, each
	// waiting for its result, must not starve it, even if they share its address. With bcrypt cost 10 it waits for some
	// seconds. The limits no longer matter once the user has a proof.
	userLimits = limits{places: 64, failures: 60, rate: 4, reserve: 10, refused: 16, seconds: 20, share: 0.5}
	// guessLimits apply to credentials that cannot be valid.
	guessLimits = limits{shared: true, places: 16, failures: 20, rate: 0.2, reserve: 10, refused: 256, seconds: 5, share: 0.2}
)

const (
	// laneSources is the number of sources of failures that a lane remembers, and sourceMemory is for how long.
	laneSources  = 64
	sourceMemory = 100 * time.Second
)

// lane holds the checks that share a budget. The queue's lock protects it.
type lane struct {
	limits   *limits // userLimits, or guessLimits for the shared lane
	failures budget
	calm     time.Time // when the last failure is no longer recent
	waiting  []*check  // oldest first
	running  *check
	refused  []digest // oldest first
	failed   map[netip.Prefix]time.Time
	served   uint64 // sequence number of its last check
}

func newLane(l *limits) lane {
	return lane{limits: l, failures: budget{size: l.failures, rate: l.rate}}
}

// find returns the waiting or running check of a credential, or nil.
func (l *lane) find(id digest) *check {
	if l.running != nil && l.running.id == id {
		return l.running
	}
	for _, c := range l.waiting {
		if c.id == id {
			return c
		}
	}
	return nil
}

// untilCalm returns the time until the lane has no recent failure. It is at most 0 if there is none.
func (l *lane) untilCalm(now time.Time) time.Duration { return l.calm.Sub(now) }

// first returns the waiting check whose source failed least recently, and of several the oldest.
func (l *lane) first(now time.Time) *check {
	return slices.MinFunc(l.waiting, func(a, b *check) int {
		return l.lastFailure(a, now).Compare(l.lastFailure(b, now))
	})
}

// lastFailure returns the time of the last failure of a source of the check in this lane. Of several sources, it
// returns the earliest time, or the zero time if one has no failure.
func (l *lane) lastFailure(c *check, now time.Time) (last time.Time) {
	for i, source := range c.sources {
		at := l.failed[source]
		if now.Sub(at) > sourceMemory {
			return time.Time{}
		}
		if i == 0 || at.Before(last) {
			last = at
		}
	}
	return last
}

// tokensNeeded returns the number of tokens that the lane's budget must have before the check may run.
func (l *lane) tokensNeeded(c *check, now time.Time) float64 {
	if l.lastFailure(c, now).IsZero() {
		return 1
	}
	return 1 + l.limits.reserve
}

// victim returns the check to drop for a new check of a source: the newest one of the source with the most checks. It
// returns nil unless that source has at least two checks more.
func (l *lane) victim(source netip.Prefix) (victim *check) {
	places := map[netip.Prefix]int{}
	for _, c := range l.waiting {
		places[c.sources[0]]++
	}
	most := places[source] + 1
	for _, c := range l.waiting {
		if n := places[c.sources[0]]; n > most || victim != nil && n == most {
			most, victim = n, c
		}
	}
	return victim
}

// recordFailure remembers the credential and the sources of a failed check.
func (l *lane) recordFailure(c *check, now time.Time) {
	if len(l.refused) >= l.limits.refused {
		l.refused = slices.Delete(l.refused, 0, 1)
	}
	l.refused = append(l.refused, c.id)
	if l.failed == nil {
		l.failed = map[netip.Prefix]time.Time{}
	}
	for _, source := range c.sources {
		if _, known := l.failed[source]; !known && len(l.failed) >= laneSources {
			l.dropOldestSource()
		}
		l.failed[source] = now
	}
}

// dropOldestSource forgets the source with the oldest failure.
func (l *lane) dropOldestSource() {
	var oldest netip.Prefix
	var at time.Time
	for source, t := range l.failed {
		if at.IsZero() || t.Before(at) {
			oldest, at = source, t
		}
	}
	delete(l.failed, oldest)
}
