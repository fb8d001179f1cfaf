// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"net/netip"
	"testing"
	"time"
)

func TestReserveIsForSourcesWithoutFailures(t *testing.T) {
	now := time.Unix(1000, 0)
	q := newQueue(nil, time.Minute, nil)
	l := newLane(&guessLimits)
	l.recordFailure(&check{sources: []netip.Prefix{sourcePrefix(here)}}, now)
	l.failures.take(now, guessLimits.failures-3) // three of the reserve are left
	for range 5 {
		l.waiting = append(l.waiting, &check{lane: &l, sources: []netip.Prefix{sourcePrefix(here)}})
	}
	guess := l.waiting[0]
	other := &check{lane: &l, sources: []netip.Prefix{sourcePrefix(there)}}
	both := &check{lane: &l, sources: []netip.Prefix{sourcePrefix(here), sourcePrefix(there)}}
	for _, c := range []*check{other, both} {
		if d, e := q.delay(c, now), q.expectedDelay(c, now); d != 0 || e != 0 {
			t.Errorf("a source without failures waits %v, and expects %v", d, e)
		}
	}
	d, e := q.delay(guess, now), q.expectedDelay(guess, now)
	if d < 39*time.Second || d > 41*time.Second || e < d+4*5*time.Second {
		t.Errorf("a source with a failure waits %v, and expects %v", d, e)
	}
	if first := l.first(now); first != guess {
		t.Error("the oldest check is not first")
	}
	l.waiting = append(l.waiting, other)
	if first := l.first(now); first != other {
		t.Error("the source without failures is not first")
	}
	if at := l.lastFailure(guess, now.Add(sourceMemory+1)); !at.IsZero() {
		t.Error("a failure is never forgotten")
	}
}

func TestSources(t *testing.T) {
	same := [][2]string{{"192.0.2.1", "::ffff:192.0.2.1"}, {"2001:db8::1", "2001:db8::2"}, {"fe80::1%a", "fe80::1%b"}}
	for _, pair := range same {
		if a, b := sourcePrefix(netip.MustParseAddr(pair[0])), sourcePrefix(netip.MustParseAddr(pair[1])); a != b || !a.IsValid() {
			t.Errorf("%v and %v", a, b)
		}
	}
	if sourcePrefix(here) == sourcePrefix(there) || sourcePrefix(netip.Addr{}).IsValid() {
		t.Error("two addresses are one source, or none is one")
	}
}
