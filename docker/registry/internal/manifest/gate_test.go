// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestGateLetsInByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(2, 1, 1)
		order := make(chan *place, 9)
		for _, name := range []string{"a", "a", "b", "c", "b"} {
			go func() {
				if p := g.enter(t.Context(), name); p != nil {
					order <- p
				}
			}()
			synctest.Wait()
		}
		next := func(name string) *place {
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
		b.leave() // counts once
		c := next("c")
		none() // the second of a waits for the first
		if !a.step() || !a.step() {
			t.Error("no room aside")
		}
		other := next("a")
		none()
		if c.step() {
			t.Error("more aside than there may be")
		}
		a.leave()
		none()
		other.leave()
		b = next("b")
		b.leave()
		c.leave()
		if g.queued() != 0 || g.running != 0 || g.aside != 0 || len(g.busy) != 0 {
			t.Errorf("%+v", g)
		}
	})
}

func TestGateForgetsWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(3, 2, 2)
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%5+1)*time.Second)
				defer cancel()
				if p := g.enter(ctx, string(rune('a'+i%4))); p != nil {
					p.step()
					time.Sleep(time.Second)
					p.leave()
				}
			})
		}
		all.Wait()
		// Let in and given up at the same time.
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
		if g.running != 0 || g.aside != 0 || g.queued() != 0 || len(g.busy) != 0 {
			t.Errorf("%+v", g)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if g.enter(ended, "a") != nil {
			t.Error("let in although its context has ended")
		}
	})
}
