// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestOrderOfUse checks that the least recently used blobs without readers are evicted, also after a restart.
func TestOrderOfUse(t *testing.T) {
	s, u := testStore(t, mib)
	var blobs []digest.Digest
	for range 8 {
		blobs = append(blobs, keep(t, u, "r", testutil.RandomBytes(90*kib)))
	}
	for i, d := range blobs { // as if they had been stored an hour ago, one after the other
		at := s.now().Add(-3600e9 + 1e9*durationOf(i))
		if err := os.Chtimes(s.diskPath(u.path(dataPath(d))), at, at); err != nil {
			t.Fatal(err)
		}
	}
	s, u = reopen(t, s)
	if !has(t, u, "r", blobs[0]) {
		t.Fatal("not stored")
	}
	s, u = reopen(t, s)                                        // the use of the first blob survives the restart
	if _, err := u.Stat(ctx, dataPath(blobs[1])); err != nil { // marks it as used
		t.Fatal(err)
	}
	keep(t, u, "r", testutil.RandomBytes(180*kib))
	for i, want := range []bool{true, true, false, false, true, true, true, true} {
		if _, ok := u.Has("r", blobs[i]); ok != want {
			t.Errorf("blob %d: stored %v, want %v", i, !want, want)
		}
	}
	if st := s.Stats(); st.Evictions != 2 || st.PeakBytes > mib {
		t.Errorf("%+v", st)
	}
	checkCount(t, s)
}

// TestOpenBlobsStay checks that blobs with readers are kept, and more recently used blobs without readers are evicted.
func TestOpenBlobsStay(t *testing.T) {
	s, u := testStore(t, mib)
	first := keep(t, u, "r", testutil.RandomBytes(200*kib))
	open, err := u.Open(ctx, "r", first)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		keep(t, u, "r", testutil.RandomBytes(200*kib))
	}
	if _, ok := u.Has("r", first); !ok {
		t.Error("dropped while it is open")
	}
	_ = open.Close()
	for range 10 {
		keep(t, u, "r", testutil.RandomBytes(200*kib))
	}
	if _, ok := u.Has("r", first); ok {
		t.Error("never dropped")
	}
	checkCount(t, s)
}

// TestLowerLimit opens a store with a limit below its usage.
func TestLowerLimit(t *testing.T) {
	s, u := testStore(t, 4*mib)
	for range 10 {
		keep(t, u, "r", testutil.RandomBytes(200*kib))
	}
	s.opts.Limit = mib
	s, _ = reopen(t, s)
	checkCount(t, s)
	if used := s.Stats().UsedBytes; used > mib || used < mib/2 {
		t.Errorf("used %d", used)
	}
}
