// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"slices"
	"sync"
)

// queueShare is the divisor of the queue length that limits the questions about one repository while others wait.
const queueShare = 4

// gate limits how many questions an upstream is asked at once and how many wait, in total and per repository, so that a
// slow repository leaves room for others. Repositories take turns, and the questions about one repository are admitted
// in order. A question that takes long moves aside to give its place to another one, as long as there is room aside.
type gate struct {
	limit, share, asideLimit, queueLimit int

	mu       sync.Mutex
	running  int
	aside    int
	waits    int
	busy     map[string]int              // number of running questions, by repository
	queues   map[string]*repositoryQueue // non-empty queues, by repository
	rotation []*repositoryQueue          // the same queues, in the order of their turns
}

// A repositoryQueue holds the waiting questions about one repository.
type repositoryQueue struct {
	repository string
	tickets    []*ticket // oldest first
}

// A ticket is the right to ask the upstream, or to wait for that right. Its holder must call leave.
type ticket struct {
	gate       *gate
	repository string
	admitted   chan struct{} // closed when the question may be asked
	refused    chan struct{} // closed when it is refused in favor of another repository
	aside      bool
	left       bool
}

func newGate(limit, share, aside, queue int) *gate {
	return &gate{limit: limit, share: share, asideLimit: aside, queueLimit: queue, busy: map[string]int{}, queues: map[string]*repositoryQueue{}}
}

// join returns a ticket, which may be in the queue. It returns nil if the queue is full.
func (g *gate) join(repository string) *ticket {
	p := &ticket{gate: g, repository: repository, admitted: make(chan struct{}), refused: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.queues[repository]
	switch {
	case l == nil && g.admitLocked(repository):
		close(p.admitted)
		return p
	case g.queueLimit == 0,
		l != nil && len(g.queues) > 1 && len(l.tickets) >= max(1, g.queueLimit/queueShare),
		g.waits >= g.queueLimit && !g.evictLocked(l):
		return nil
	}
	if l == nil {
		l = &repositoryQueue{repository: repository}
		g.queues[repository] = l
		g.rotation = append(g.rotation, l)
	}
	l.tickets = append(l.tickets, p)
	g.waits++
	return p
}

// evictLocked makes room in the queue for a question about a repository with few waiting questions. It refuses the
// newest question of the repository with the most. It returns false if both have about the same number.
func (g *gate) evictLocked(mine *repositoryQueue) bool {
	n := 0
	if mine != nil {
		n = len(mine.tickets)
	}
	longest := slices.MaxFunc(g.rotation, func(a, b *repositoryQueue) int { return len(a.tickets) - len(b.tickets) })
	if len(longest.tickets) < n+2 {
		return false
	}
	victim := longest.tickets[len(longest.tickets)-1]
	g.removeLocked(victim)
	close(victim.refused)
	return true
}

// removeLocked removes a ticket from the queue, and reports whether it was there.
func (g *gate) removeLocked(p *ticket) bool {
	l := g.queues[p.repository]
	if l == nil {
		return false
	}
	i := slices.Index(l.tickets, p)
	if i < 0 {
		return false
	}
	l.tickets = slices.Delete(l.tickets, i, i+1)
	g.waits--
	if len(l.tickets) == 0 {
		delete(g.queues, p.repository)
		g.rotation = slices.DeleteFunc(g.rotation, func(other *repositoryQueue) bool { return other == l })
	}
	return true
}

// wait waits until the question may be asked. It returns false if the question is refused or ctx is done first.
func (t *ticket) wait(ctx context.Context) bool {
	select {
	case <-t.admitted:
		return ctx.Err() == nil
	case <-t.refused:
	case <-ctx.Done():
	}
	return false
}

// wasRefused reports whether the ticket was refused in favor of another repository.
func (t *ticket) wasRefused() bool {
	select {
	case <-t.refused:
		return true
	default:
		return false
	}
}

// admitLocked admits a question about a repository, and reports whether the limits allow that.
func (g *gate) admitLocked(repository string) bool {
	if g.running >= g.limit || g.busy[repository] >= g.share {
		return false
	}
	g.running++
	g.busy[repository]++
	return true
}

// moveAside gives the place to another question while this one continues. It returns false if too many have moved
// aside.
func (t *ticket) moveAside() bool {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.left || t.aside {
		return true
	}
	if g.aside >= g.asideLimit {
		return false
	}
	g.aside++
	t.aside = true
	g.releaseLocked(t.repository)
	return true
}

// leave returns the ticket in any of its states: waiting, admitted or moved aside.
func (t *ticket) leave() {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case t.left:
		return
	case t.aside:
		g.aside--
	case g.removeLocked(t), t.wasRefused():
	default:
		g.releaseLocked(t.repository)
	}
	t.left = true
}

// releaseLocked frees a place, and admits the oldest question about the next repository that is within its limit.
func (g *gate) releaseLocked(repository string) {
	g.running--
	if g.busy[repository]--; g.busy[repository] == 0 {
		delete(g.busy, repository)
	}
	for i, l := range g.rotation {
		if !g.admitLocked(l.repository) {
			continue
		}
		g.rotation = append(slices.Delete(g.rotation, i, i+1), l)
		next := l.tickets[0]
		g.removeLocked(next)
		close(next.admitted)
		return
	}
}
