// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"testing"
	"time"
)

func TestBudget(t *testing.T) {
	b := budget{size: 3, rate: 0.5}
	now := time.Unix(1000, 0)
	if d := b.until(now, 3); d != 0 {
		t.Errorf("a new budget is full after %v", d)
	}
	b.take(now, 1)
	b.take(now, 4) // overdrawn by 2
	if d := b.until(now, 1); d < 6*time.Second || d > 6*time.Second+2*time.Millisecond {
		t.Errorf("one token after %v, want 6 s", d)
	}
	now = now.Add(b.until(now, 1))
	if d := b.until(now, 1); d != 0 {
		t.Errorf("after the time that it named, one token after %v", d)
	}
	if d := b.until(now, 2); d == 0 {
		t.Error("two tokens are there too early")
	}
	now = now.Add(time.Hour)
	if b.debt(now) != 0 || b.until(now, 4) == 0 {
		t.Error("it holds more than its size")
	}
}
