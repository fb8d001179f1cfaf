// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestFailures checks that failures are remembered by request, for a limited time and in limited number.
func TestFailures(t *testing.T) {
	f := failures{time: failureTTL}
	one, two := errors.New("one"), errors.New("two")
	q, other := blob("a", digest.FromString("x")), blob("b", digest.FromString("x"))
	now := time.Unix(0, 0)
	f.add(q, one, now)
	f.add(q, two, now.Add(time.Second))
	for after, want := range map[time.Duration]error{0: two, 2 * time.Second: two, 3*time.Second - 1: two, 3 * time.Second: nil} {
		if got := f.get(q, now.Add(after)); !errors.Is(got, want) {
			t.Errorf("after %v: %v, want %v", after, got, want)
		}
	}
	if err := f.get(other, now); err != nil {
		t.Errorf("of another repository: %v", err)
	}
	f.add(other, one, now.Add(2*time.Second)) // the first of q is over, the second is not
	if !errors.Is(f.get(q, now.Add(2*time.Second)), two) || len(f.order) != 2 {
		t.Errorf("%v", f.order)
	}
	now = now.Add(time.Minute)
	for i := range maxFailures + 100 {
		f.add(blob(fmt.Sprint(i), q.Digest), one, now)
	}
	if len(f.order) != maxFailures || len(f.byRequest) != maxFailures {
		t.Errorf("%d, %d", len(f.order), len(f.byRequest))
	}
	if f.get(blob("99", q.Digest), now) != nil || f.get(blob("100", q.Digest), now) == nil {
		t.Error("not the oldest were dropped")
	}
	f.add(q, one, now.Add(failureTTL))
	if len(f.order) != 1 || len(f.byRequest) != 1 {
		t.Errorf("%d, %d are left", len(f.order), len(f.byRequest))
	}
}

// agedError is an error that another replica has received earlier.
type agedError struct{ error }

func (agedError) Age() time.Duration { return 1500 * time.Millisecond }

// TestAgedFailures checks that a hop does not prolong how long an error is remembered.
func TestAgedFailures(t *testing.T) {
	f := failures{time: failureTTL}
	q := blob("a", digest.FromString("x"))
	now := time.Now()
	f.add(q, agedError{errors.New("old")}, now)
	err := f.get(q, now.Add(400*time.Millisecond))
	if age := errorAge(err); age < 1500*time.Millisecond || age > time.Minute {
		t.Errorf("%v: %v old", err, age)
	}
	if err := f.get(q, now.Add(600*time.Millisecond)); err != nil {
		t.Errorf("remembered for too long: %v", err)
	}
}
