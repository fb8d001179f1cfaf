// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"testing"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestPlainWriter checks that files are written and appended to at their final paths, as far as there is room.
func TestPlainWriter(t *testing.T) {
	s, u := testStore(t, mib)
	const p = "/some/file"
	for i := range 3 {
		w, err := u.Writer(ctx, p, i > 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(testutil.RandomBytes(100 * kib)); err != nil || w.Size() != int64(i+1)*100*kib {
			t.Errorf("%d bytes, %v", w.Size(), err)
		}
		if err := w.Commit(ctx); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	checkCount(t, s)
	w, err := u.Writer(ctx, "/other", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(testutil.RandomBytes(900 * kib)); err != nil {
		t.Error(err)
	}
	if _, err := w.Write(testutil.RandomBytes(900 * kib)); err == nil {
		t.Error("wrote more than there is room for")
	}
	if _, err := u.Stat(ctx, p); err == nil {
		t.Error("room was not made")
	}
	if err := w.Cancel(ctx); err != nil {
		t.Error(err)
	}
	if _, err := w.Write([]byte("x")); err == nil || w.Commit(ctx) == nil || w.Close() == nil {
		t.Error("can be used after its end")
	}
	if st := s.Stats(); st.PeakBytes > mib {
		t.Errorf("%+v", st)
	}
	checkCount(t, s)
}
