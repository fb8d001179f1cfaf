// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"slices"
	"sync"
)

// gate bounds how many questions an upstream is asked at once, in all and about one repository, so that a slow repository
// leaves room for others. Those that wait are let in by age. A question that takes long gives its place to them and goes on
// aside, as long as there is room there too.
type gate struct {
	limit, share, asideLimit int

	mu      sync.Mutex
	running int
	aside   int
	busy    map[string]int // running, by repository
	waiting []*place       // oldest first
}

// A place is the right to ask. Who has one calls leave.
type place struct {
	gate       *gate
	repository string
	admitted   chan struct{}
	aside      bool
	left       bool
}

func newGate(limit, share, aside int) *gate {
	return &gate{limit: limit, share: share, asideLimit: aside, busy: map[string]int{}}
}

// enter waits for a place. It returns nil if the context ends before.
func (g *gate) enter(ctx context.Context, repository string) *place {
	if ctx.Err() != nil {
		return nil
	}
	p := &place{gate: g, repository: repository, admitted: make(chan struct{})}
	g.mu.Lock()
	if g.admitLocked(repository) {
		g.mu.Unlock()
		return p
	}
	g.waiting = append(g.waiting, p)
	g.mu.Unlock()
	select {
	case <-p.admitted:
		return p
	case <-ctx.Done():
	}
	g.mu.Lock()
	i := slices.Index(g.waiting, p)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	g.mu.Unlock()
	if i < 0 {
		p.leave() // admitted at the same time
	}
	return nil
}

func (g *gate) admitLocked(repository string) bool {
	if g.running >= g.limit || g.busy[repository] >= g.share {
		return false
	}
	g.running++
	g.busy[repository]++
	return true
}

// step gives the place to another question while this one goes on. It returns false if too many go on like this.
func (p *place) step() bool {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.left || p.aside {
		return true
	}
	if g.aside >= g.asideLimit {
		return false
	}
	g.aside++
	p.aside = true
	g.freeLocked(p.repository)
	return true
}

// leave gives the place back.
func (p *place) leave() {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case p.left:
		return
	case p.aside:
		g.aside--
	default:
		g.freeLocked(p.repository)
	}
	p.left = true
}

// freeLocked frees one place, and lets the oldest in that may have it.
func (g *gate) freeLocked(repository string) {
	g.running--
	if g.busy[repository]--; g.busy[repository] == 0 {
		delete(g.busy, repository)
	}
	for i, p := range g.waiting {
		if g.admitLocked(p.repository) {
			g.waiting = slices.Delete(g.waiting, i, i+1)
			close(p.admitted)
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
