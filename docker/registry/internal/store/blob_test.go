// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"strings"
	"testing"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestTwoUpstreams checks that two upstreams do not share content, but share the limit.
func TestTwoUpstreams(t *testing.T) {
	s, one := testStore(t, 4*mib)
	two, err := s.Upstream("two")
	if err != nil {
		t.Fatal(err)
	}
	content := testutil.RandomBytes(mib)
	d := keep(t, one, "r", content)
	if _, ok := two.Has("r", d); ok {
		t.Error("content of another upstream")
	}
	g := two.Grow(d, mib)
	if err := pull(WithGrowing(ctx, g), repository(t, two, "r"), d, content); err != nil {
		t.Fatal(err)
	}
	g.Close()
	for range 2 {
		keep(t, two, "r", testutil.RandomBytes(mib))
	}
	if _, ok := one.Has("r", d); ok || s.Stats().Evictions != 1 {
		t.Error("the upstreams have separate limits")
	}
	if again, err := s.Upstream("two"); err != nil || again != two {
		t.Error("two drivers of one upstream")
	}
	if list, err := one.List(ctx, "/"); err != nil || strings.Contains(strings.Join(list, " "), "two") {
		t.Errorf("%v, %v", list, err)
	}
	checkCount(t, s)
}
