// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
)

func TestLaneHasPlacesForEverySource(t *testing.T) {
	inWorld(t, []string{line("ann", "a")}, func(t *testing.T, w *world) {
		var clients sync.WaitGroup
		results := make(chan Result, 100)
		for i := range 30 { // one runs, 16 wait
			clients.Go(func() { results <- w.ask("ann", fmt.Sprint("guess", i)) })
		}
		synctest.Wait()
		if n := w.Stats().Waiting; n != lanePlaces {
			t.Errorf("%d checks wait, want %d", n, lanePlaces)
		}
		if n := len(results); n != 30-1-lanePlaces {
			t.Errorf("%d were turned away", n)
		}
		clients.Go(func() {
			if r := w.Check(t.Context(), basic("ann", "a"), there); r.Verdict != Good {
				t.Errorf("%+v", r)
			}
		})
		synctest.Wait()
		if n := w.Stats().Waiting; n != lanePlaces {
			t.Errorf("%d checks wait, want %d", n, lanePlaces)
		}
		if n := len(results); n != 30-lanePlaces {
			t.Errorf("%d were turned away", n)
		}
		clients.Wait()
		// The guess that ran, then ann from an address without failures, then the others, which cannot be good any more.
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
		w.queue.time.size = 1e6
		w.queue.guesses.failures.size = 1e6
		for i := range 2 * guessesRefused {
			addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			w.Check(t.Context(), basic("nobody", fmt.Sprint(i)), addr)
		}
		if n := len(w.queue.guesses.refused); n != guessesRefused {
			t.Errorf("%d refused credentials, want %d", n, guessesRefused)
		}
		if n := len(w.queue.guesses.failed); n != laneSources {
			t.Errorf("%d sources, want %d", n, laneSources)
		}
		w.want(Bad, 0, "nobody", fmt.Sprint(2*guessesRefused-1))
		w.want(Bad, 1, "nobody", "0")
		if n := len(w.queue.lanes); n != 0 {
			t.Errorf("%d lanes are left", n)
		}
	})
}

func TestSources(t *testing.T) {
	same := [][2]string{{"192.0.2.1", "::ffff:192.0.2.1"}, {"2001:db8::1", "2001:db8::2"}, {"fe80::1%a", "fe80::1%b"}}
	for _, pair := range same {
		if a, b := prefix(netip.MustParseAddr(pair[0])), prefix(netip.MustParseAddr(pair[1])); a != b || !a.IsValid() {
			t.Errorf("%v and %v", a, b)
		}
	}
	if prefix(here) == prefix(there) || prefix(netip.Addr{}).IsValid() {
		t.Error("two addresses are one source, or none is one")
	}
}
