// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"slices"
	"sync"
)

// queueShare is the part of the queue that the questions about one repository may take while others wait: a quarter.
const queueShare = 4

// gate bounds how many questions an upstream is asked at once and how many wait, in all and about one repository, so that a
// slow repository leaves room for others. Repositories take turns; the questions about one are let in by age. A question that
// takes long gives its place to others and goes on aside, as long as there is room there too.
type gate struct {
	limit, share, asideLimit, queueLimit int

	mu      sync.Mutex
	running int
	aside   int
	waits   int
	busy    map[string]int   // running, by repository
	lines   map[string]*line // those that are not empty
	turns   []*line          // the same, the next first
}

// A line is the questions about one repository that wait.
type line struct {
	repository string
	places     []*place // oldest first
}

// A place is the right to ask, or to wait for it. Who has one calls leave.
type place struct {
	gate       *gate
	repository string
	admitted   chan struct{} // closed when the question may be asked
	refused    chan struct{} // closed when it may not, for the sake of another repository
	aside      bool
	left       bool
}

func newGate(limit, share, aside, queue int) *gate {
	return &gate{limit: limit, share: share, asideLimit: aside, queueLimit: queue, busy: map[string]int{}, lines: map[string]*line{}}
}

// join takes a place, or one in the queue. It returns nil if there is none.
func (g *gate) join(repository string) *place {
	p := &place{gate: g, repository: repository, admitted: make(chan struct{}), refused: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lines[repository]
	switch {
	case l == nil && g.admitLocked(repository):
		close(p.admitted)
		return p
	case g.queueLimit == 0,
		l != nil && len(g.lines) > 1 && len(l.places) >= max(1, g.queueLimit/queueShare),
		g.waits >= g.queueLimit && !g.yieldLocked(l):
		return nil
	}
	if l == nil {
		l = &line{repository: repository}
		g.lines[repository] = l
		g.turns = append(g.turns, l)
	}
	l.places = append(l.places, p)
	g.waits++
	return p
}

// yieldLocked makes room in the queue for a question about a repository with fewer that wait: the newest of the repository
// with most is refused. It returns false if that would only turn the tables.
func (g *gate) yieldLocked(mine *line) bool {
	n := 0
	if mine != nil {
		n = len(mine.places)
	}
	longest := slices.MaxFunc(g.turns, func(a, b *line) int { return len(a.places) - len(b.places) })
	if len(longest.places) < n+2 {
		return false
	}
	victim := longest.places[len(longest.places)-1]
	g.removeLocked(victim)
	close(victim.refused)
	return true
}

// removeLocked takes a place out of the queue, and reports whether it was there.
func (g *gate) removeLocked(p *place) bool {
	l := g.lines[p.repository]
	if l == nil {
		return false
	}
	i := slices.Index(l.places, p)
	if i < 0 {
		return false
	}
	l.places = slices.Delete(l.places, i, i+1)
	g.waits--
	if len(l.places) == 0 {
		delete(g.lines, p.repository)
		g.turns = slices.DeleteFunc(g.turns, func(other *line) bool { return other == l })
	}
	return true
}

// wait returns true when the question may be asked, and false if it may not or the context ends before.
func (p *place) wait(ctx context.Context) bool {
	select {
	case <-p.admitted:
		return ctx.Err() == nil
	case <-p.refused:
	case <-ctx.Done():
	}
	return false
}

// wasRefused reports whether the place was given to another repository.
func (p *place) wasRefused() bool {
	select {
	case <-p.refused:
		return true
	default:
		return false
	}
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

// leave gives the place back, wherever it is.
func (p *place) leave() {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case p.left:
		return
	case p.aside:
		g.aside--
	case g.removeLocked(p), p.wasRefused():
	default:
		g.freeLocked(p.repository)
	}
	p.left = true
}

// freeLocked frees one place, and lets the oldest question in of the next repository that may have it.
func (g *gate) freeLocked(repository string) {
	g.running--
	if g.busy[repository]--; g.busy[repository] == 0 {
		delete(g.busy, repository)
	}
	for i, l := range g.turns {
		if !g.admitLocked(l.repository) {
			continue
		}
		g.turns = append(slices.Delete(g.turns, i, i+1), l)
		next := l.places[0]
		g.removeLocked(next)
		close(next.admitted)
		return
	}
}
