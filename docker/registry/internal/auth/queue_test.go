// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestLaneHasPlacesForEverySource(t *testing.T) {
	inWorld(t, []string{line("ann", "a")}, func(t *testing.T, w *world) {
		var clients sync.WaitGroup
		results := make(chan Result, 100)
		for i := range 80 { // one runs
			clients.Go(func() { results <- w.ask("ann", fmt.Sprint("guess", i)) })
		}
		synctest.Wait()
		if n := w.Stats().Waiting; n != userLimits.places {
			t.Errorf("%d checks wait, want %d", n, userLimits.places)
		}
		if n := len(results); n != 80-1-userLimits.places {
			t.Errorf("%d were turned away", n)
		}
		clients.Go(func() {
			if r := w.Check(t.Context(), basic("ann", "a"), there); r.Verdict != Good {
				t.Errorf("%+v", r)
			}
		})
		synctest.Wait()
		if n := w.Stats().Waiting; n != userLimits.places {
			t.Errorf("%d checks wait, want %d", n, userLimits.places)
		}
		if n := len(results); n != 80-userLimits.places {
			t.Errorf("%d were turned away", n)
		}
		clients.Wait()
		// First the running guess, then ann from an address without failures, then the others, which can no longer be
		// valid.
		if s := w.Stats(); s.Matched != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestOneCheckHasBoundedWaiters(t *testing.T) {
	inWorld(t, []string{line("ann", "a")}, func(t *testing.T, w *world) {
		var clients sync.WaitGroup
		for range checkWaiters + 10 {
			clients.Go(func() { w.ask("ann", "a") })
		}
		clients.Wait()
		if s := w.Stats(); s.Good != checkWaiters || s.TryLater != 10 {
			t.Errorf("%+v", s)
		}
	})
}

func TestLaneMemoryIsBounded(t *testing.T) {
	inWorld(t, []string{line("ann", "a")}, func(t *testing.T, w *world) {
		w.queue.guessTime.size = 1e6
		w.queue.guesses.failures.size = 1e6
		for i := range 2 * guessLimits.refused {
			addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			w.Check(t.Context(), basic("nobody", fmt.Sprint(i)), addr)
		}
		if n := len(w.queue.guesses.refused); n != guessLimits.refused {
			t.Errorf("%d refused credentials, want %d", n, guessLimits.refused)
		}
		if n := len(w.queue.guesses.failed); n != laneSources {
			t.Errorf("%d sources, want %d", n, laneSources)
		}
		w.want(Bad, 0, "nobody", fmt.Sprint(2*guessLimits.refused-1))
		w.want(Bad, 1, "nobody", "0")
		if n := len(w.queue.lanes); n != 0 {
			t.Errorf("%d lanes are left", n)
		}
	})
}

func TestOrderOfLanes(t *testing.T) {
	now := time.Unix(1000, 0)
	made := func(l *limits, failures float64, served, seq uint64) *check {
		lane := newLane(l)
		lane.failures.take(now, failures)
		lane.served = served
		if failures > 0 {
			lane.calm = now.Add(time.Second)
		}
		return &check{lane: &lane, seq: seq}
	}
	order := []*check{
		made(&userLimits, 0, 0, 8),
		made(&userLimits, 0, 0, 9),
		made(&userLimits, 0, 1, 7),
		made(&userLimits, 1, 0, 6),
		made(&userLimits, 1, 0, 7),
		made(&userLimits, 3, 0, 5),
		made(&guessLimits, 0, 0, 4),
	}
	for i, a := range order {
		for j, b := range order {
			if i != j && before(a, b, now) != (i < j) {
				t.Errorf("%d is not before %d", min(i, j), max(i, j))
			}
		}
	}
}
