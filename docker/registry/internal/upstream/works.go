// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// worksLate is how many works go on although nobody waits for them.
	worksLate = 32
	// keepLate is how long the answer of such a work is kept for the next who asks.
	keepLate = 30 * time.Second
	// keepLateBytes is the most that such answers take in memory, in bytes.
	keepLateBytes = 4 << 20
)

// errLate is returned to those whose limit is over while the work goes on.
var errLate = errors.New("no answer in time")

// works are the questions to the upstream that run, one for each key. A work goes on when those who waited for it have left,
// so that an answer that takes longer than anybody waits is had once at last.
type works struct {
	remember time.Duration

	mu    sync.Mutex
	byKey map[string]*work
	late  int   // running, and nobody waits
	bytes int64 // of kept answers
}

// work is one question.
type work struct {
	key    string
	ctx    context.Context // ends when there are too many late ones
	cancel context.CancelFunc
	done   chan struct{}
	answer *Answer
	err    error

	// Guarded by works.mu.
	waiters int
	slow    time.Time // when somebody's limit was over the last time
	ended   bool
	expiry  *time.Timer // of a kept answer
}

func newWorks(remember time.Duration) *works {
	return &works{remember: remember, byKey: map[string]*work{}}
}

// join returns the work for a key, begun by start if there is none, and how long to wait for it: not at all if somebody
// waited in vain a moment ago.
func (ws *works) join(key string, limit time.Duration, start func(*work)) (*work, time.Duration) {
	ws.mu.Lock()
	w := ws.byKey[key]
	if w != nil {
		switch {
		case w.ended:
			ws.dropLocked(w)
		case w.waiters == 0:
			ws.late--
		}
		w.waiters++
		if !w.slow.IsZero() && time.Since(w.slow) < ws.remember {
			limit = 0
		}
		ws.mu.Unlock()
		return w, limit
	}
	w = &work{key: key, done: make(chan struct{}), waiters: 1}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	ws.byKey[key] = w
	ws.mu.Unlock()
	start(w)
	return w, limit
}

// wait returns the answer, or errLate after the limit.
func (ws *works) wait(ctx context.Context, w *work, limit time.Duration) (*Answer, error) {
	select {
	case <-w.done:
		ws.leave(w, false)
		return w.answer, w.err
	default:
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-w.done:
		ws.leave(w, false)
		return w.answer, w.err
	case <-timer.C:
		ws.leave(w, limit > 0)
		return nil, errLate
	case <-ctx.Done():
		ws.leave(w, false)
		return nil, context.Cause(ctx)
	}
}

func (ws *works) leave(w *work, slow bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if slow {
		w.slow = time.Now()
	}
	w.waiters--
	if w.waiters > 0 || w.ended {
		return
	}
	if ws.late >= worksLate {
		w.cancel()
	}
	ws.late++
}

// finish sets the result. An answer for which nobody waits is kept for a while, if there is room.
func (ws *works) finish(w *work, a *Answer, err error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w.answer, w.err, w.ended = a, err, true
	close(w.done)
	w.cancel()
	if w.waiters == 0 {
		ws.late--
		if err == nil && ws.bytes+a.cost() <= keepLateBytes {
			ws.bytes += a.cost()
			w.expiry = time.AfterFunc(keepLate, func() {
				ws.mu.Lock()
				defer ws.mu.Unlock()
				if ws.byKey[w.key] == w {
					ws.dropLocked(w)
				}
			})
			return
		}
	}
	delete(ws.byKey, w.key)
}

// dropLocked forgets a kept answer.
func (ws *works) dropLocked(w *work) {
	delete(ws.byKey, w.key)
	if w.expiry != nil {
		w.expiry.Stop()
		w.expiry = nil
		ws.bytes -= w.answer.cost()
	}
}

// cost returns about how much memory an answer takes, in bytes.
func (a *Answer) cost() int64 { return int64(len(a.Body)) + 1<<10 }

// close forgets what is kept.
func (ws *works) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range ws.byKey {
		if w.ended {
			ws.dropLocked(w)
		}
	}
}
