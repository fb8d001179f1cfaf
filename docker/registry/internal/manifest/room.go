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
	// smallAnswer is the size in bytes up to which an answer has room of its own. Nearly all are smaller.
	smallAnswer = 64 << 10
	// copies is how many times an answer is in memory while it is fetched: as it came, as distribution read, parsed and sent it.
	copies = 4
	// minInFlight is the least that a room has by default, in bytes: the largest answer fits while it is fetched.
	minInFlight = 64 << 20
)

// errNoRoom is why an answer is not read.
var errNoRoom = errors.New("too many large answers are in memory")

// A byteSemaphore bounds the bytes of answers that are being fetched, written to the store or sent to clients. Large ones leave a
// quarter of it to small ones. Those that find no room wait, the small and the large in a queue each.
type byteSemaphore struct {
	limit, large int64         // large: of it for large answers
	maxWait      time.Duration // how long one waits

	mu        sync.Mutex
	used      int64
	usedLarge int64
	waiting   [2][]*waiter // for small ones, for large ones; oldest first
}

// A waiter is a wait for room.
type waiter struct {
	bytes   int64
	granted chan struct{}
}

func newByteSemaphore(limit int64, patience time.Duration) *byteSemaphore {
	return &byteSemaphore{limit: limit, large: limit - limit/4, maxWait: patience}
}

// cost returns what some bytes take: a large answer that is larger than the room fits if it is the only one.
func (s *byteSemaphore) cost(bytes int64) int64 {
	if bytes > smallAnswer {
		return min(bytes, max(s.large, smallAnswer+1))
	}
	return bytes
}

// queueOf returns the queue in which bytes wait.
func queueOf(cost int64) int {
	if cost > smallAnswer {
		return 1
	}
	return 0
}

func (s *byteSemaphore) tryAcquireLocked(cost int64) bool {
	if s.used > 0 && (s.used+cost > s.limit || cost > smallAnswer && s.usedLarge+cost > s.large) {
		return false
	}
	s.addLocked(cost)
	return true
}

func (s *byteSemaphore) addLocked(cost int64) {
	s.used += cost
	if cost > smallAnswer {
		s.usedLarge += cost
	}
}

// releaseLocked gives bytes back, to those who wait.
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

func (s *byteSemaphore) release(cost int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseLocked(cost)
}

// acquire takes what some bytes cost, and waits for it. It returns false if there is no room in time.
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
		return true // granted at the same time
	}
	s.waiting[i] = slices.Delete(s.waiting[i], at, at+1)
	s.releaseLocked(0) // the next may be a smaller one
	return false
}

// A lease is the bytes of one answer. They count once, however many use them, and only while somebody does: those that are
// only remembered have a limit of their own.
type lease struct {
	semaphore *byteSemaphore
	cost      int64
	users     int // guarded by the room's mu
	// whole is what others find while the answer or a copy of it is in use; guarded by the Handler's mu.
	whole *Answer
}

// newLease returns the load of an answer, with one user who has taken the bytes before at a cost.
func (s *byteSemaphore) newLease(bytes int, before int64) *lease {
	l := &lease{semaphore: s, cost: s.cost(int64(bytes)), users: 1}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLocked(l.cost)
	s.releaseLocked(before)
	return l
}

// acquire counts a user more. It returns false if that needs room and there is none. What has no load takes no room.
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

// acquireN counts users more, with the room that one of them has taken before at a cost, or while there is another user.
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

// release counts a user less.
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

// A reservation is the room of an answer that is being fetched. It is used by one goroutine at a time.
type reservation struct {
	semaphore *byteSemaphore
	cost      int64
	refused   bool
}

type reservationKey struct{}

// Reserve takes room in memory for the answer that an Asker is about to read, and waits for it. An Asker calls it with the
// context of Ask, before it reads more than 64 KiB of an answer; where the size is not known, with the most that it will read.
// After an error it does not read on.
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

// release gives back what is left of it.
func (r *reservation) release() {
	if r.cost > 0 {
		r.semaphore.release(r.cost)
		r.cost = 0
	}
}

// attach makes an answer that was fetched a load with one user. It returns false if there is no room for one that was not
// reserved.
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
