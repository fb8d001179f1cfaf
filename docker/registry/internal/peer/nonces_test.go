// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"fmt"
	"testing"
	"time"
)

func TestNoncesAreAcceptedOnce(t *testing.T) {
	n := newNonces(10)
	now := time.UnixMilli(1700000000500)
	for _, c := range []struct {
		nonce string
		at    time.Duration
		now   time.Duration
		want  Reason
	}{
		{"a", 0, 0, ""}, {"a", 0, 0, Replayed}, {"b", 0, 0, ""}, {"a", 0, 59 * time.Second, Replayed}, {"a", 0, 61 * time.Second, Time},
		{"c", window, 0, ""}, {"c", window, 2 * window, Replayed}, {"d", window + time.Millisecond, 0, Time}, {"e", -window, 0, ""},
		{"f", -window - time.Millisecond, 0, Time},
	} {
		if got := n.add(c.nonce, now.Add(c.at).UnixMilli(), now.Add(c.now)); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestNoncesExpire(t *testing.T) {
	n := newNonces(1000)
	now := time.UnixMilli(1700000000000)
	for i := range 300 {
		at := now.Add(time.Duration(i) * time.Second)
		n.add(fmt.Sprint(i), at.UnixMilli(), at)
	}
	if n.count > 62 || len(n.seconds) != n.count {
		t.Errorf("%d of %d seconds are kept", n.count, len(n.seconds))
	}
}

// TestFullNonces checks that room is made by refusing older requests, and that no request is accepted twice.
func TestFullNonces(t *testing.T) {
	n := newNonces(10)
	now := time.UnixMilli(1700000000000)
	for i := range 30 {
		at := now.Add(time.Duration(i/5) * time.Second)
		if got := n.add(fmt.Sprint(i), at.UnixMilli(), at); got != "" {
			t.Fatalf("%d: %s", i, got)
		}
		if n.count > 10 {
			t.Fatalf("%d are kept", n.count)
		}
	}
	for i := range 30 {
		at := now.Add(time.Duration(i/5) * time.Second)
		if got := n.add(fmt.Sprint(i), at.UnixMilli(), now.Add(6*time.Second)); got == "" {
			t.Fatalf("%d is taken twice", i)
		}
	}
	if got := n.add("new", now.Add(6*time.Second).UnixMilli(), now.Add(6*time.Second)); got != "" {
		t.Errorf("a new one: %s", got)
	}
}
