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
	// small is the size in bytes up to which an answer has room of its own. Nearly all are smaller.
	small = 64 << 10
	// copies is how many times an answer is in memory while it is fetched: as it came, as distribution read, parsed and sent it.
	copies = 4
	// leastRoom is the least that a room has by default, in bytes: the largest answer fits while it is fetched.
	leastRoom = 64 << 20
)

// errNoRoom is why an answer is not read.
var errNoRoom = errors.New("too many large answers are in memory")

// A room bounds the bytes of answers that are being fetched, written to the store or sent to clients. Large ones leave a
// quarter of it to small ones. Those that find no room wait, the small and the large in a queue each.
type room struct {
	limit, large int64         // large: of it for large answers
	patience     time.Duration // how long one waits

	mu        sync.Mutex
	used      int64
	usedLarge int64
	waiting   [2][]*wish // for small ones, for large ones; oldest first
}

// A wish is a wait for room.
type wish struct {
	bytes   int64
	granted chan struct{}
}

func newRoom(limit int64, patience time.Duration) *room {
	return &room{limit: limit, large: limit - limit/4, patience: patience}
}

// cost returns what some bytes take: a large answer that is larger than the room fits if it is the only one.
func (r *room) cost(bytes int64) int64 {
	if bytes > small {
		return min(bytes, max(r.large, small+1))
	}
	return bytes
}

// queueOf returns the queue in which bytes wait.
func queueOf(cost int64) int {
	if cost > small {
		return 1
	}
	return 0
}

func (r *room) takeLocked(cost int64) bool {
	if r.used > 0 && (r.used+cost > r.limit || cost > small && r.usedLarge+cost > r.large) {
		return false
	}
	r.addLocked(cost)
	return true
}

func (r *room) addLocked(cost int64) {
	r.used += cost
	if cost > small {
		r.usedLarge += cost
	}
}

// leaveLocked gives bytes back, to those who wait.
func (r *room) leaveLocked(cost int64) {
	r.used -= cost
	if cost > small {
		r.usedLarge -= cost
	}
	for i, queue := range r.waiting {
		for len(queue) > 0 && r.takeLocked(queue[0].bytes) {
			close(queue[0].granted)
			queue = queue[1:]
		}
		r.waiting[i] = queue
	}
}

func (r *room) leave(cost int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaveLocked(cost)
}

// enter takes what some bytes cost, and waits for it. It returns false if there is no room in time.
func (r *room) enter(ctx context.Context, cost int64) bool {
	i := queueOf(cost)
	r.mu.Lock()
	if len(r.waiting[i]) == 0 && r.takeLocked(cost) {
		r.mu.Unlock()
		return true
	}
	w := &wish{cost, make(chan struct{})}
	r.waiting[i] = append(r.waiting[i], w)
	r.mu.Unlock()
	timer := time.NewTimer(r.patience)
	defer timer.Stop()
	select {
	case <-w.granted:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := slices.Index(r.waiting[i], w)
	if at < 0 {
		return true // granted at the same time
	}
	r.waiting[i] = slices.Delete(r.waiting[i], at, at+1)
	r.leaveLocked(0) // the next may be a smaller one
	return false
}

// A load is the bytes of one answer. They count once, however many use them, and only while somebody does: those that are
// only remembered have a limit of their own.
type load struct {
	room  *room
	cost  int64
	users int // guarded by the room's mu
	// whole is what others find while the answer or a copy of it is in use; guarded by the Handler's mu.
	whole *Answer
}

// load returns the load of an answer, with one user who has taken the bytes before at a cost.
func (r *room) load(bytes int, before int64) *load {
	l := &load{room: r, cost: r.cost(int64(bytes)), users: 1}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addLocked(l.cost)
	r.leaveLocked(before)
	return l
}

// join counts a user more. It returns false if that needs room and there is none. What has no load takes no room.
func (l *load) join() bool {
	if l == nil {
		return true
	}
	r := l.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.users == 0 && (len(r.waiting[queueOf(l.cost)]) > 0 || !r.takeLocked(l.cost)) {
		return false
	}
	l.users++
	return true
}

// joinBy counts users more, with the room that one of them has taken before at a cost, or while there is another user.
func (l *load) joinBy(users int, before int64) {
	if l == nil {
		return
	}
	r := l.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.users == 0 && users > 0 {
		r.addLocked(l.cost)
	}
	l.users += users
	r.leaveLocked(before)
}

// leave counts a user less.
func (l *load) leave() {
	if l == nil {
		return
	}
	l.room.mu.Lock()
	defer l.room.mu.Unlock()
	if l.users--; l.users == 0 {
		l.room.leaveLocked(l.cost)
	}
}

// A reservation is the room of an answer that is being fetched. It is used by one goroutine at a time.
type reservation struct {
	room    *room
	cost    int64
	refused bool
}

type reservationKey struct{}

// Reserve takes room in memory for the answer that an Asker is about to read, and waits for it. An Asker calls it with the
// context of Ask, before it reads more than 64 KiB of an answer; where the size is not known, with the most that it will read.
// After an error it does not read on.
func Reserve(ctx context.Context, bytes int64) error {
	v, ok := ctx.Value(reservationKey{}).(*reservation)
	if !ok || bytes <= small {
		return nil
	}
	cost := v.room.cost(bytes * copies)
	if cost <= v.cost {
		return nil
	}
	v.end()
	if !v.room.enter(ctx, cost) {
		v.refused = true
		return errNoRoom
	}
	v.cost = cost
	return nil
}

// end gives back what is left of it.
func (v *reservation) end() {
	if v.cost > 0 {
		v.room.leave(v.cost)
		v.cost = 0
	}
}

// carry makes an answer that was fetched a load with one user. It returns false if there is no room for one that was not
// reserved.
func (v *reservation) carry(ctx context.Context, a *Answer) bool {
	if v.cost == 0 {
		cost := v.room.cost(int64(len(a.Body)))
		if !v.room.enter(ctx, cost) {
			return false
		}
		v.cost = cost
	}
	a.load = v.room.load(len(a.Body), v.cost)
	v.cost = 0
	return true
}
