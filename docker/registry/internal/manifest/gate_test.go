// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// enter waits for a place. It returns nil if there is none before ctx is done.
func (g *gate) enter(ctx context.Context, repository string) *ticket {
	p := g.join(repository)
	if p == nil || p.wait(ctx) {
		return p
	}
	p.leave()
	return nil
}

func (g *gate) isEmpty() bool {
	return g.waits == 0 && g.running == 0 && g.aside == 0 && len(g.busy) == 0 && len(g.queues) == 0 && len(g.rotation) == 0
}

func TestGateTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(2, 1, 1, 9)
		order := make(chan *ticket, 9)
		for _, name := range []string{"a", "a", "b", "c", "b"} {
			go func() {
				if p := g.enter(t.Context(), name); p != nil {
					order <- p
				}
			}()
			synctest.Wait()
		}
		next := func(name string) *ticket {
			t.Helper()
			synctest.Wait()
			if len(order) == 0 {
				t.Fatalf("%s is not let in", name)
			}
			p := <-order
			if p.repository != name {
				t.Fatalf("%s is let in, want %s", p.repository, name)
			}
			return p
		}
		none := func() {
			t.Helper()
			synctest.Wait()
			if len(order) > 0 {
				t.Fatalf("%s is let in", (<-order).repository)
			}
		}
		a, b := next("a"), next("b")
		none()
		b.leave()
		b.leave() // has an effect only once
		c := next("c")
		none()        // the second of a waits for the first
		for range 2 { // the second call has no effect
			if !a.moveAside() {
				t.Error("no room aside")
			}
		}
		other := next("a")
		none()
		if c.moveAside() {
			t.Error("more aside than there may be")
		}
		a.leave()
		none()
		other.leave()
		b = next("b")
		b.leave()
		c.leave()
		if g.queued() != 0 || !g.isEmpty() {
			t.Errorf("%+v", g)
		}
	})
}

// TestGateIsFair checks that neither many nor old questions give a repository more places than others.
func TestGateIsFair(t *testing.T) {
	g := newGate(1, 1, 1, 8)
	first := g.join("x")
	var places []*ticket
	for _, name := range []string{"a", "a", "a", "a", "a", "a", "a", "a"} { // without others, it may fill the whole queue
		places = append(places, g.join(name))
	}
	if g.join("a") != nil || g.queued() != 8 {
		t.Fatalf("%d wait", g.queued())
	}
	for i, name := range []string{"b", "c", "b", "c", "d"} {
		p := g.join(name)
		if p == nil || !places[7-i].wasRefused() || places[6-i].wasRefused() {
			t.Fatalf("%s: the newest of a is not refused for it", name)
		}
		places = append(places, p)
	}
	for _, name := range []string{"a", "b", "c", "e"} {
		if name == "e" {
			if p := g.join(name); p == nil || !places[2].wasRefused() {
				t.Error("e does not get a place of a")
			}
		} else if g.join(name) != nil {
			t.Errorf("%s gets more than a quarter", name)
		}
	}
	// Repositories with two questions give way to those with none, until all have the same number.
	for _, name := range []string{"f", "g", "h"} {
		if g.join(name) == nil {
			t.Errorf("%s gets no place", name)
		}
	}
	if g.join("i") != nil {
		t.Error("i gets the only place of another")
	}
	order, last := "", first
	for g.queued() > 0 {
		before := map[*ticket]bool{}
		for _, l := range g.rotation {
			for _, p := range l.tickets {
				before[p] = true
			}
		}
		last.leave()
		for p := range before {
			select {
			case <-p.admitted:
				order, last = order+p.repository, p
			default:
			}
		}
	}
	last.leave()
	if order != "abcdefgh" {
		t.Errorf("the order is %s", order)
	}
	if !g.isEmpty() {
		t.Errorf("%+v", g)
	}
}

func TestGateForgetsCanceledTickets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(3, 2, 2, 200)
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%5+1)*time.Second)
				defer cancel()
				if p := g.enter(ctx, string(rune('a'+i%4))); p != nil {
					p.moveAside()
					time.Sleep(time.Second)
					p.leave()
				}
			})
		}
		all.Wait()
		// Admit and give up at the same time.
		for range 50 {
			p := g.enter(t.Context(), "x")
			q := g.enter(t.Context(), "x")
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				if late := g.enter(ctx, "x"); late != nil {
					late.leave()
				}
			}()
			synctest.Wait()
			cancel()
			p.leave()
			q.leave()
			synctest.Wait()
		}
		if !g.isEmpty() {
			t.Errorf("%+v", g)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if g.enter(ended, "a") != nil {
			t.Error("let in although its context has ended")
		}
	})
}
