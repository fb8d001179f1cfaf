// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestRelaysAreEvictedFirst checks that relays are evicted before other blobs, whenever they were used.
func TestRelaysAreEvictedFirst(t *testing.T) {
	s, u := testStore(t, MinLimit)
	const size = 4 << 20
	relay := func(content []byte) digest.Digest {
		t.Helper()
		d := digest.FromBytes(content)
		g := u.Grow(d, int64(len(content)))
		defer g.Close()
		if _, err := g.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := g.KeepRelay(u, "r"); err != nil {
			t.Fatal(err)
		}
		return d
	}
	own, shared := testutil.RandomBytes(size), testutil.RandomBytes(size)
	first := keep(t, u, "r", own)
	there := keep(t, u, "r", shared)
	relay(shared) // it is already in the store
	relays := []digest.Digest{relay(testutil.RandomBytes(size)), relay(testutil.RandomBytes(size)), relay(testutil.RandomBytes(size))}
	u.SetRelay(relays[2], false)
	var others []digest.Digest
	for len(others) < 20 && u.find("r", relays[1]) != nil {
		others = append(others, keep(t, u, "r", testutil.RandomBytes(size)))
	}
	if u.find("r", relays[0]) != nil || len(others) < 12 {
		t.Errorf("relays were dropped after %d others", len(others))
	}
	b := u.find("r", relays[2])
	for i, d := range append(others, first, there, relays[2]) {
		if !has(t, u, "r", d) {
			t.Errorf("blob %d was dropped", i)
		}
	}
	// A blob with readers is not in an LRU list.
	open, err := u.Open(ctx, "r", relays[2])
	if err != nil {
		t.Fatal(err)
	}
	u.SetRelay(relays[2], true)
	if s.relays.Len() != 0 || b == nil || b.place != nil {
		t.Errorf("%d relays can be dropped", s.relays.Len())
	}
	_ = open.Close()
	keep(t, u, "r", testutil.RandomBytes(size))
	keep(t, u, "r", testutil.RandomBytes(size))
	if u.find("r", relays[2]) != nil {
		t.Error("a relay was kept")
	}
	u.SetRelay(relays[2], true) // it is not in the store
	checkCount(t, s)
}
