// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"net/netip"
	"slices"
	"time"
)

// limits are the limits of one lane.
type limits struct {
	shared   bool    // the lane holds no first contact
	places   int     // different credentials that wait
	failures float64 // checks that may fail at once
	rate     float64 // checks per second that may fail in the long run
	reserve  float64 // part of failures for sources without a recent failure in the lane
	refused  int     // refused credentials that are remembered
	seconds  float64 // processor time that failures of all such lanes may take at once
	share    float64 // processor time per second that they may take in the long run
}

var (
	// userLimits are generous, since the user's first contact may be among the guesses: a flood of 50 clients that
	// each wait for their answer must not keep it from its turn, even at the same address. With bcrypt of cost 10 it
	// waits some seconds. The limits no longer matter after that contact.
	userLimits = limits{places: 64, failures: 60, rate: 4, reserve: 10, refused: 16, seconds: 20, share: 0.5}
	// guessLimits hold for what cannot be good.
	guessLimits = limits{shared: true, places: 16, failures: 20, rate: 0.2, reserve: 10, refused: 256, seconds: 5, share: 0.2}
)

const (
	// laneSources is how many sources of failures a lane remembers, and sourceMemory for how long.
	laneSources  = 64
	sourceMemory = 100 * time.Second
)

// lane holds the checks that share a budget. The queue's lock protects it.
type lane struct {
	limits   *limits // userLimits, or guessLimits for the lane that is shared
	failures budget
	calm     time.Time // until then a failure counts as recent
	waiting  []*check  // oldest first
	running  *check
	refused  []digest // oldest first
	failed   map[netip.Prefix]time.Time
	served   uint64 // when its last check began, as a sequence number
}

func newLane(l *limits) lane {
	return lane{limits: l, failures: budget{size: l.failures, rate: l.rate}}
}

// find returns the check of a credential, waiting or running.
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

// untilCalm returns the time until the lane has no recent failure; at most 0 if it has none.
func (l *lane) untilCalm(now time.Time) time.Duration { return l.calm.Sub(now) }

// first returns the waiting check whose source failed least recently, the oldest one of several.
func (l *lane) first(now time.Time) *check {
	return slices.MinFunc(l.waiting, func(a, b *check) int {
		return l.lastFailure(a, now).Compare(l.lastFailure(b, now))
	})
}

// lastFailure returns when a source of the check last failed in this lane, of several sources the earliest; the zero
// time if one did not.
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

// tokensNeeded returns how many tokens the lane's budget must have before the check may run.
func (l *lane) tokensNeeded(c *check, now time.Time) float64 {
	if l.lastFailure(c, now).IsZero() {
		return 1
	}
	return 1 + l.limits.reserve
}

// victim returns the check to drop for a new one of a source: the newest of the source that has most places, or nil unless
// that source has at least two places more.
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

// recordFailure remembers the credential of a failed check and its sources.
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

// dropOldestSource drops the source whose failure is oldest.
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
