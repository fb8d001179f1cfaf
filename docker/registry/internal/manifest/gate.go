// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"sync"
)

// gate bounds how many questions an upstream is asked at once, in all and about one repository, so that a slow repository
// leaves room for others. Those that wait are let in by age.
type gate struct {
	limit, share int

	mu      sync.Mutex
	running int
	busy    map[string]int // by repository
	waiting []*ticket      // oldest first
}

type ticket struct {
	repository string
	admitted   chan struct{}
}

func newGate(limit, share int) *gate {
	return &gate{limit: limit, share: share, busy: map[string]int{}}
}

// enter waits for a place, and returns false if the context ends before. Who got one calls leave.
func (g *gate) enter(ctx context.Context, repository string) bool {
	if ctx.Err() != nil {
		return false
	}
	g.mu.Lock()
	if g.admitLocked(repository) {
		g.mu.Unlock()
		return true
	}
	t := &ticket{repository, make(chan struct{})}
	g.waiting = append(g.waiting, t)
	g.mu.Unlock()
	select {
	case <-t.admitted:
		return true
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, other := range g.waiting {
		if other == t {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			return false
		}
	}
	g.leaveLocked(repository) // admitted at the same time
	return false
}

func (g *gate) admitLocked(repository string) bool {
	if g.running >= g.limit || g.busy[repository] >= g.share {
		return false
	}
	g.running++
	g.busy[repository]++
	return true
}

// leave gives a place back.
func (g *gate) leave(repository string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(repository)
}

func (g *gate) leaveLocked(repository string) {
	g.running--
	if g.busy[repository]--; g.busy[repository] == 0 {
		delete(g.busy, repository)
	}
	for i, t := range g.waiting {
		if g.admitLocked(t.repository) {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			close(t.admitted)
			return
		}
	}
}

// queued returns how many wait.
func (g *gate) queued() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}
