// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"cmp"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestHeld lists blobs, manifests and tags by their links, with their size and last use.
func TestHeld(t *testing.T) {
	s, u := testStore(t, mib)
	now := time.Now()
	s.now = func() time.Time { return now }
	layer := keep(t, u, "a/b", testutil.RandomBytes(3000))
	now = now.Add(time.Hour)
	content := testutil.RandomBytes(500)
	manifest := digest.FromBytes(content)
	revision := reposDir + "a/b/_manifests/revisions/sha256/" + manifest.Encoded()
	for path, body := range map[string][]byte{
		dataPath(manifest): content, revision + "/link": []byte(manifest), revision + "/type": []byte("application/json"),
		reposDir + "a/b/_manifests/tags/v1/current/link":                                     []byte(manifest),
		reposDir + "a/b/_manifests/tags/v1/index/sha256/" + manifest.Encoded() + "/link":     []byte(manifest),
		reposDir + "a/b/_layers/sha512/" + digest.SHA512.FromString("x").Encoded() + "/link": []byte(layer),
	} {
		if err := u.PutContent(ctx, path, body); err != nil {
			t.Fatal(err)
		}
	}
	held := u.Held()
	slices.SortFunc(held, func(a, b Held) int { return cmp.Compare(a.Size, b.Size)*2 + cmp.Compare(a.Tag, b.Tag) })
	want := []Held{
		{Repository: "a/b", Digest: manifest, Size: 500, Used: now},
		{Repository: "a/b", Tag: "v1", Size: 500, Used: now},
		{Repository: "a/b", Digest: layer, Layer: true, Size: 3000, Used: now.Add(-time.Hour)},
	}
	if !slices.Equal(held, want) {
		t.Errorf("%+v", held)
	}
	if !u.Holds("a/b", layer) || u.Holds("c", layer) || !u.Holds("", layer) || u.Holds("", digest.FromString("none")) {
		t.Error("Holds is wrong")
	}
	if again := u.Held(); !slices.ContainsFunc(again, func(h Held) bool { return h == want[2] }) {
		t.Error("Holds counts as use")
	}
}

// TestHasRoom makes room for a blob only at the expense of blobs that were used earlier.
func TestHasRoom(t *testing.T) {
	s, u := testStore(t, 4*mib)
	now := time.Now()
	s.now = func() time.Time { return now }
	old := keep(t, u, "r", testutil.RandomBytes(mib))
	now = now.Add(time.Hour)
	keep(t, u, "r", testutil.RandomBytes(mib))
	for _, test := range []struct {
		size int64
		age  time.Duration
		want bool
	}{
		{mib, 24 * time.Hour, true}, // it fits
		{2 * mib, 0, true},
		{2 * mib, 30 * time.Minute, true}, // the first blob is older
		{2 * mib, 2 * time.Hour, false},
		{3 * mib, 30 * time.Minute, false}, // the second one is not
		{3 * mib, -time.Minute, true},
		{4 * mib, -time.Minute, false},
	} {
		if got := u.HasRoom(test.size, now.Add(-test.age), false); got != test.want {
			t.Errorf("%d bytes, used %v ago: %v", test.size, test.age, got)
		}
	}
	if s.Stats().Evictions != 0 {
		t.Error("something was evicted")
	}
	open, err := u.Open(ctx, "r", old)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if u.HasRoom(2*mib, now.Add(-30*time.Minute), false) {
		t.Error("a blob that is being read would make room")
	}
}

// TestSetUsed evicts a blob in the order of the use that was set, also after a restart.
func TestSetUsed(t *testing.T) {
	s, u := testStore(t, mib)
	now := time.Now().Add(-time.Hour)
	s.now = func() time.Time { return now }
	var blobs []digest.Digest
	for range 4 {
		blobs = append(blobs, keep(t, u, "r", testutil.RandomBytes(200*kib)))
		now = now.Add(time.Minute)
	}
	u.SetUsed(blobs[3], now.Add(-210*time.Second)) // between the first and the second
	s.opts.Limit = 600 * kib
	s.shrink()
	kept := func() (all []bool) {
		for _, d := range blobs {
			all = append(all, u.Holds("r", d))
		}
		return all
	}
	if got := kept(); !slices.Equal(got, []bool{false, true, true, false}) {
		t.Errorf("kept %v", got)
	}
	u.SetUsed(blobs[2], now.Add(-time.Hour))
	s.opts.Limit = 400 * kib
	s, u = reopen(t, s)
	if got := kept(); !slices.Equal(got, []bool{false, true, false, false}) {
		t.Errorf("kept %v after a restart", got)
	}
	u.SetUsed(blobs[0], now) // it is not stored
	checkCount(t, s)
}

// TestFreezeUse has other replicas read all blobs. Their last use stays, in memory and after a restart.
func TestFreezeUse(t *testing.T) {
	s, u := testStore(t, 4*mib)
	used := time.Now().Add(-48 * time.Hour).Truncate(time.Second)
	small, large := keep(t, u, "r", testutil.RandomBytes(kib)), keep(t, u, "r", testutil.RandomBytes(mib))
	for _, d := range []digest.Digest{small, large} {
		u.SetUsed(d, used)
	}
	s, u = reopen(t, s) // the first reader of each verifies it
	s.FreezeUse()
	for range 2 {
		for _, d := range []digest.Digest{small, large} {
			open, err := u.Open(ctx, "r", d)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, open); err != nil {
				t.Error(err)
			}
			open.Close()
		}
	}
	s, u = reopen(t, s)
	for _, held := range u.Held() {
		if !held.Used.Equal(used) {
			t.Errorf("%d bytes: %v, not %v", held.Size, held.Used, used)
		}
	}
	checkCount(t, s)
}
