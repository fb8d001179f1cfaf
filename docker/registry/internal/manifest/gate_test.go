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
		g := newGate(2, 1)
		order := make(chan string, 9)
		for _, name := range []string{"a", "a", "b", "c", "b"} {
			go func() {
				if g.enter(t.Context(), name) {
					order <- name
				}
			}()
			synctest.Wait()
		}
		want := func(names ...string) {
			t.Helper()
			synctest.Wait()
			for _, name := range names {
				if len(order) == 0 {
					t.Fatalf("%s is not let in", name)
				}
				if got := <-order; got != name {
					t.Fatalf("%s is let in, want %s", got, name)
				}
			}
			if len(order) > 0 {
				t.Fatalf("%s is let in", <-order)
			}
		}
		want("a", "b")
		g.leave("b")
		want("c") // the second of a must wait for the first
		g.leave("a")
		want("a")
		g.leave("a")
		want("b")
		if g.queued() != 0 || len(g.busy) != 2 {
			t.Errorf("%+v", g)
		}
	})
}

func TestGateForgetsWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(3, 2)
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%5+1)*time.Second)
				defer cancel()
				name := string(rune('a' + i%4))
				if g.enter(ctx, name) {
					time.Sleep(time.Second) // ends with others' time-outs
					g.leave(name)
				}
			})
		}
		all.Wait()
		if g.running != 0 || g.queued() != 0 || len(g.busy) != 0 {
			t.Errorf("%d run, %d wait, %v", g.running, g.queued(), g.busy)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if g.enter(ended, "a") {
			t.Error("let in although its context has ended")
		}
	})
}
