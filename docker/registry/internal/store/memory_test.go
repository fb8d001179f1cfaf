// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"bytes"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestSmallContentIsInMemory checks that small blobs and manifests are read once, and kept up to the memory limit.
func TestSmallContentIsInMemory(t *testing.T) {
	s, u := testStore(t, 64*mib)
	s.opts.MemoryLimit = 100 * kib
	var all []digest.Digest
	for range 10 {
		all = append(all, keep(t, u, "r", testutil.RandomBytes(20*kib)))
	}
	manifest := []byte(`{"schemaVersion": 2}`)
	m := digest.FromBytes(manifest)
	if err := u.PutContent(ctx, dataPath(m), manifest); err != nil {
		t.Fatal(err)
	}
	s, u = reopen(t, s)
	for _, d := range all {
		if !has(t, u, "r", d) {
			t.Error("lost")
		}
	}
	if got, err := u.GetContent(ctx, dataPath(m)); err != nil || !bytes.Equal(got, manifest) {
		t.Error(err)
	}
	if st := s.Stats(); st.MemoryBytes > 100*kib || st.MemoryBytes < 80*kib || st.VerifiedBytes != 200*kib+int64(len(manifest)) {
		t.Errorf("%+v", st)
	}
	older := s.now()
	if has(t, u, "r", all[5]); s.order.Front().Value.(*blob).key.digest != all[5] {
		t.Errorf("read from memory at %s, but not counted as use", older)
	}
	for _, d := range append(all, m) { // content in memory is not read again
		if err := os.Truncate(s.diskPath(u.path(dataPath(d))), 1); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := u.GetContent(ctx, dataPath(m)); err != nil || !bytes.Equal(got, manifest) {
		t.Error(err)
	}
	if !has(t, u, "r", all[9]) || has(t, u, "r", all[0]) {
		t.Error("not those used last are in memory")
	}
	if err := u.Delete(ctx, dataPath(m)); err != nil {
		t.Fatal(err)
	}
	if _, err := u.GetContent(ctx, dataPath(m)); err == nil {
		t.Error("deleted, but still served from memory")
	}
	for s.evictOldest(nil) {
	}
	if st := s.Stats(); st.MemoryBytes != 0 || s.cached.Len() != 0 {
		t.Errorf("%+v", st)
	}
}
