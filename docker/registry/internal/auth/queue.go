// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// checkWaiters is the maximum number of requests that wait for one check.
	checkWaiters = 4096
	// calmTime is how long a failure counts as recent, and calmFactor is the same as a multiple of the duration of the
	// check.
	calmTime   = 5 * time.Second
	calmFactor = 5
)

// outcome is the result of a check.
type outcome int

const (
	rejected outcome = iota
	matched
	mismatched
	stale // the user's line has changed, or the user has a proof for another password
)

// check is one credential that is waiting for bcrypt or being checked. All requests with this credential share the
// check.
type check struct {
	id       digest
	name     string
	password []byte
	user     *user // nil if the check cannot succeed
	hash     string
	lane     *lane

	sources []netip.Prefix // the clients' addresses; the check counts against the first one
	waiters int
	seq     uint64
	done    chan struct{}
	outcome outcome
	retry   time.Duration // with rejected
}

// queue orders the checks and runs one at a time.
type queue struct {
	compare compareFunc
	maxWait time.Duration
	valid   func(*check) bool // called under mu
	closed  atomic.Bool
	changed chan struct{} // signals that a check may have become ready

	mu        sync.Mutex
	seq       uint64
	lanes     map[*lane]struct{} // those with waiting checks
	guesses   lane               // shared by all checks that cannot succeed
	userTime  budget             // seconds of bcrypt for failures in the lanes of users
	guessTime budget             // the same in the shared lane

	matched, mismatched uint64
}

func newQueue(compare compareFunc, maxWait time.Duration, valid func(*check) bool) *queue {
	return &queue{
		compare: compare, maxWait: maxWait, valid: valid,
		changed:   make(chan struct{}, 1),
		lanes:     map[*lane]struct{}{},
		guesses:   newLane(&guessLimits),
		userTime:  budget{size: userLimits.seconds, rate: userLimits.share},
		guessTime: budget{size: guessLimits.seconds, rate: guessLimits.share},
	}
}

// wait returns the outcome of the check, or rejected if ctx or the deadline ends first. A check that no request waits
// for leaves the queue, unless it is already running.
func (q *queue) wait(ctx context.Context, c *check, source netip.Prefix, deadline time.Time) (outcome, time.Duration) {
	c, end, retry := q.join(c, source, time.Now())
	if c == nil {
		return end, retry
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-c.done:
		return c.outcome, c.retry
	case <-ctx.Done():
	case <-timer.C:
	}
	return q.leave(c)
}

// join adds a request to the queue. It returns the check to wait for, which is c or an existing check of the same
// credential. If there is no check to wait for, it returns the outcome.
func (q *queue) join(c *check, source netip.Prefix, now time.Time) (*check, outcome, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := c.lane
	if q.closed.Load() {
		return nil, rejected, 0
	}
	if !q.valid(c) {
		return nil, stale, 0
	}
	if slices.Contains(l.refused, c.id) {
		return nil, mismatched, 0
	}
	if same := l.find(c.id); same != nil {
		if same.waiters >= checkWaiters {
			return nil, rejected, 0
		}
		same.waiters++
		same.addSource(source)
		return same, 0, 0
	}
	c.addSource(source)
	retry := q.expectedDelay(c, now)
	if retry > q.maxWait {
		return nil, rejected, retry
	}
	if len(l.waiting) >= l.limits.places {
		victim := l.victim(source)
		if victim == nil {
			return nil, rejected, retry
		}
		q.remove(victim)
		victim.end(rejected, q.expectedDelay(victim, now))
	}
	q.seq++
	c.seq, c.waiters, c.done = q.seq, 1, make(chan struct{})
	l.waiting = append(l.waiting, c)
	q.lanes[l] = struct{}{}
	q.wake()
	return c, 0, 0
}

// leave removes one request from a check, unless the check has just ended.
func (q *queue) leave(c *check) (outcome, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-c.done:
		return c.outcome, c.retry
	default:
	}
	c.waiters--
	if c.waiters == 0 && c.lane.running != c {
		q.remove(c)
		c.end(rejected, 0)
	}
	return rejected, q.expectedDelay(c, time.Now())
}

// wake makes work look for a ready check.
func (q *queue) wake() {
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// work runs one check after another until ctx is done.
func (q *queue) work(ctx context.Context) {
	for ctx.Err() == nil {
		c, delay := q.next(time.Now())
		if c != nil {
			began := time.Now()
			ok := q.compare(ctx, c.hash, c.password)
			q.finish(c, ok, began, time.Now())
			continue
		}
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
		case <-q.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// next returns the check to run now, or the time until one may be ready. Lanes of users without a recent failure go
// first, then those with few failures, then those that have waited longest. The shared lane is last.
func (q *queue) next(now time.Time) (*check, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropStale()
	var best *check
	delay := time.Hour
	for l := range q.lanes {
		c := l.first(now)
		if d := q.delay(c, now); d > 0 {
			delay = min(delay, d)
		} else if best == nil || before(c, best, now) {
			best = c
		}
	}
	if best == nil {
		return nil, delay
	}
	q.remove(best)
	q.seq++
	best.lane.running, best.lane.served = best, q.seq
	return best, 0
}

// before reports whether a is checked before b, which is in another lane.
func before(a, b *check, now time.Time) bool {
	if a.lane.limits.shared != b.lane.limits.shared {
		return b.lane.limits.shared
	}
	if x, y := a.lane.untilCalm(now) > 0, b.lane.untilCalm(now) > 0; x != y {
		return y
	}
	if x, y := a.lane.failures.debt(now), b.lane.failures.debt(now); x != y {
		return x < y
	}
	if a.lane.served != b.lane.served {
		return a.lane.served < b.lane.served
	}
	return a.seq < b.seq
}

// delay returns the time until the budgets allow the check; 0 for the lane of a user without recent failures.
func (q *queue) delay(c *check, now time.Time) time.Duration {
	return max(c.lane.failures.until(now, c.lane.tokensNeeded(c, now)), q.guessDelay(c.lane, now))
}

// expectedDelay estimates how long a check waits for the budgets, including the checks ahead of it in its lane.
func (q *queue) expectedDelay(c *check, now time.Time) time.Duration {
	l := c.lane
	ahead := 0
	for _, other := range l.waiting {
		if other != c && !l.lastFailure(other, now).After(l.lastFailure(c, now)) {
			ahead++
		}
	}
	return max(l.failures.until(now, l.tokensNeeded(c, now)+float64(ahead)), q.guessDelay(l, now))
}

// guessDelay returns the time until the budget has CPU time for a failure, or until a user's lane needs none
// because its failures are no longer recent.
func (q *queue) guessDelay(l *lane, now time.Time) time.Duration {
	wait := q.timeBudget(l).until(now, 0.001)
	if !l.limits.shared {
		wait = min(wait, l.untilCalm(now))
	}
	return wait
}

// timeBudget returns the budget of CPU time that the lane's failures are charged to.
func (q *queue) timeBudget(l *lane) *budget {
	if l.limits.shared {
		return &q.guessTime
	}
	return &q.userTime
}

// finish ends the running check and charges a failure to the budgets.
func (q *queue) finish(c *check, ok bool, began, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := c.lane
	l.running = nil
	if q.closed.Load() {
		c.end(rejected, 0)
		return
	}
	if ok && c.user != nil {
		q.matched++
	} else {
		q.mismatched++
		q.timeBudget(l).take(now, now.Sub(began).Seconds())
	}
	if !q.valid(c) {
		c.end(stale, 0)
		return
	}
	if ok && c.user != nil {
		c.user.proof.Store(&c.id)
		c.end(matched, 0)
		return
	}
	l.failures.take(now, 1)
	l.calm = now.Add(max(calmTime, calmFactor*now.Sub(began)))
	l.recordFailure(c, now)
	c.end(mismatched, 0)
}

// dropStale ends the waiting checks that are no longer valid. Their clients start new checks.
func (q *queue) dropStale() {
	for l := range q.lanes {
		for _, c := range slices.Clone(l.waiting) {
			if !q.valid(c) {
				q.remove(c)
				c.end(stale, 0)
			}
		}
	}
}

// remove removes a waiting check from its lane.
func (q *queue) remove(c *check) {
	l := c.lane
	if i := slices.Index(l.waiting, c); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	if len(l.waiting) == 0 {
		delete(q.lanes, l)
	}
}

// close rejects all waiting and all later checks.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed.Store(true)
	for l := range q.lanes {
		for _, c := range slices.Clone(l.waiting) {
			q.remove(c)
			c.end(rejected, 0)
		}
	}
}

// counts returns the number of waiting checks, and the numbers of matched and mismatched ones.
func (q *queue) counts() (waiting int, matched, mismatched uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for l := range q.lanes {
		waiting += len(l.waiting)
	}
	return waiting, q.matched, q.mismatched
}

// end sets the outcome and wakes the requests that wait for it.
func (c *check) end(o outcome, retry time.Duration) {
	c.outcome, c.retry = o, retry
	close(c.done)
}

// addSource adds the address of another client that waits for the check.
func (c *check) addSource(source netip.Prefix) {
	if len(c.sources) < laneSources && !slices.Contains(c.sources, source) {
		c.sources = append(c.sources, source)
	}
}
