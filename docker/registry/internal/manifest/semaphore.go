// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// smallAnswer is the size up to which answers may use the reserved part of the room, in bytes. Nearly all answers
	// are smaller.
	smallAnswer = 64 << 10
	// copies is how many times an answer is in memory while it is fetched: as received, and as read, parsed and sent by
	// distribution.
	copies = 4
	// minInFlight is the minimum default of Options.InFlight, in bytes. The largest answer must fit while it is
	// fetched.
	minInFlight = 64 << 20
)

// errNoRoom is returned if there is no room for an answer in memory.
var errNoRoom = errors.New("too many large answers are in memory")

// A byteSemaphore limits the total size of answers that are being fetched, stored or sent. A quarter of it is reserved
// for small answers. Answers without room wait in two queues, for small and large answers.
type byteSemaphore struct {
	limit, large int64         // large is the part of limit for large answers
	maxWait      time.Duration // maximum waiting time

	mu        sync.Mutex
	used      int64
	usedLarge int64
	waiting   [2][]*waiter // small and large answers, oldest first
}

// A waiter waits for room.
type waiter struct {
	bytes   int64
	granted chan struct{}
}

func newByteSemaphore(limit int64, patience time.Duration) *byteSemaphore {
	return &byteSemaphore{limit: limit, large: limit - limit/4, maxWait: patience}
}

// cost returns the cost of an answer of a given size. It is limited, so that the largest answer fits if it is the only
// one.
func (s *byteSemaphore) cost(bytes int64) int64 {
	if bytes > smallAnswer {
		return min(bytes, max(s.large, smallAnswer+1))
	}
	return bytes
}

// queueOf returns the index of the queue for a cost.
func queueOf(cost int64) int {
	if cost > smallAnswer {
		return 1
	}
	return 0
}

// tryAcquireLocked acquires a cost, and reports whether there was room.
func (s *byteSemaphore) tryAcquireLocked(cost int64) bool {
	if s.used > 0 && (s.used+cost > s.limit || cost > smallAnswer && s.usedLarge+cost > s.large) {
		return false
	}
	s.addLocked(cost)
	return true
}

// addLocked acquires a cost even if there is no room.
func (s *byteSemaphore) addLocked(cost int64) {
	s.used += cost
	if cost > smallAnswer {
		s.usedLarge += cost
	}
}

// releaseLocked releases a cost and wakes the waiters for which there is room now.
func (s *byteSemaphore) releaseLocked(cost int64) {
	s.used -= cost
	if cost > smallAnswer {
		s.usedLarge -= cost
	}
	for i, queue := range s.waiting {
		for len(queue) > 0 && s.tryAcquireLocked(queue[0].bytes) {
			close(queue[0].granted)
			queue = queue[1:]
		}
		s.waiting[i] = queue
	}
}

// release releases a cost.
func (s *byteSemaphore) release(cost int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseLocked(cost)
}

// acquire acquires a cost and waits for room. It returns false if there is no room in time.
func (s *byteSemaphore) acquire(ctx context.Context, cost int64) bool {
	i := queueOf(cost)
	s.mu.Lock()
	if len(s.waiting[i]) == 0 && s.tryAcquireLocked(cost) {
		s.mu.Unlock()
		return true
	}
	w := &waiter{cost, make(chan struct{})}
	s.waiting[i] = append(s.waiting[i], w)
	s.mu.Unlock()
	timer := time.NewTimer(s.maxWait)
	defer timer.Stop()
	select {
	case <-w.granted:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.Index(s.waiting[i], w)
	if at < 0 {
		return true // granted concurrently
	}
	s.waiting[i] = slices.Delete(s.waiting[i], at, at+1)
	s.releaseLocked(0) // the next waiter may need less
	return false
}

// A lease counts the users of an answer's bytes. The bytes count once in the semaphore, however many users there are,
// and only while there are users: cached bytes have a separate limit.
type lease struct {
	semaphore *byteSemaphore
	cost      int64
	users     int // guarded by the semaphore's mu
	// whole is the answer that others can share while it, or a copy of it, is in use. It is guarded by Handler.mu.
	whole *Answer
}

// newLease returns a lease with one user, for which a cost of before has already been acquired.
func (s *byteSemaphore) newLease(bytes int, before int64) *lease {
	l := &lease{semaphore: s, cost: s.cost(int64(bytes)), users: 1}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLocked(l.cost)
	s.releaseLocked(before)
	return l
}

// acquire adds a user. It returns false if there is no room. An answer without a lease needs no room.
func (l *lease) acquire() bool {
	if l == nil {
		return true
	}
	r := l.semaphore
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.users == 0 && (len(r.waiting[queueOf(l.cost)]) > 0 || !r.tryAcquireLocked(l.cost)) {
		return false
	}
	l.users++
	return true
}

// acquireN adds users. Either a cost of before has already been acquired, or there must be another user.
func (l *lease) acquireN(users int, before int64) {
	if l == nil {
		return
	}
	r := l.semaphore
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.users == 0 && users > 0 {
		r.addLocked(l.cost)
	}
	l.users += users
	r.releaseLocked(before)
}

// release removes a user.
func (l *lease) release() {
	if l == nil {
		return
	}
	l.semaphore.mu.Lock()
	defer l.semaphore.mu.Unlock()
	if l.users--; l.users == 0 {
		l.semaphore.releaseLocked(l.cost)
	}
}

// A reservation is the room acquired for an answer that is being fetched. It is used by one goroutine at a time.
type reservation struct {
	semaphore *byteSemaphore
	cost      int64
	refused   bool
}

type reservationKey struct{}

// Reserve waits for room in memory for an answer. A Getter must call it with the context of Get before it reads more
// than 64 KiB of an answer. If the size is not known, it must pass the maximum that it will read. After an error, it
// must stop reading.
func Reserve(ctx context.Context, bytes int64) error {
	v, ok := ctx.Value(reservationKey{}).(*reservation)
	if !ok || bytes <= smallAnswer {
		return nil
	}
	cost := v.semaphore.cost(bytes * copies)
	if cost <= v.cost {
		return nil
	}
	v.release()
	if !v.semaphore.acquire(ctx, cost) {
		v.refused = true
		return errNoRoom
	}
	v.cost = cost
	return nil
}

// release releases the rest of the reservation.
func (r *reservation) release() {
	if r.cost > 0 {
		r.semaphore.release(r.cost)
		r.cost = 0
	}
}

// attach gives a fetched answer a lease with one user. It returns false if room was not reserved and there is none.
func (r *reservation) attach(ctx context.Context, a *Answer) bool {
	if r.cost == 0 {
		cost := r.semaphore.cost(int64(len(a.Body)))
		if !r.semaphore.acquire(ctx, cost) {
			return false
		}
		r.cost = cost
	}
	a.lease = r.semaphore.newLease(len(a.Body), r.cost)
	r.cost = 0
	return true
}
