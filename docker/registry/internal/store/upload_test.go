// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestFailedCommitDoesNotCutReaders checks that a commit that fails after the last byte does not affect readers.
func TestFailedCommitDoesNotCutReaders(t *testing.T) {
	for _, step := range []string{"fsync", "rename"} {
		s, u := testStore(t, 64*mib)
		content := testutil.RandomBytes(mib)
		d := digest.FromBytes(content)
		g := u.Grow(d, mib)
		r := newReader(t, g, 0)
		s.fault = func(at string) error {
			if at == step {
				return syscall.EIO
			}
			return nil
		}
		if err := pull(WithGrowing(ctx, g), repository(t, u, "r"), d, content); err == nil {
			t.Error("committed")
		}
		s.fault = func(string) error { return nil }
		g.Finish(errors.New("not kept"))
		g.Close()
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, %v", step, len(got), err)
		}
		if st := s.Stats(); st.UsedBytes < mib || st.Unkept != 1 {
			t.Errorf("%s: %+v", step, st)
		}
		_ = r.Close()
		checkCount(t, s)
	}
}

// TestClosedBeforeTheCommit checks that nothing is stored, not even an empty file.
func TestClosedBeforeTheCommit(t *testing.T) {
	s, u := testStore(t, 64*mib)
	for _, content := range [][]byte{testutil.RandomBytes(mib), {}} {
		d := digest.FromBytes(content)
		g := u.Grow(d, int64(len(content)))
		at := reposDir + "r/_uploads/1"
		w, err := u.Writer(WithGrowing(ctx, g), at+"/data", false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		g.Close()
		if err := w.Commit(ctx); err == nil {
			t.Error("committed")
		}
		if err := u.Move(ctx, at+"/data", dataPath(d)); err == nil {
			t.Error("moved")
		}
		_ = w.Cancel(ctx)
		_ = u.Delete(ctx, at)
		if _, err := u.Stat(ctx, dataPath(d)); err == nil {
			t.Error("kept")
		}
		checkCount(t, s)
	}
}

// TestSecondFetchContinues checks that another upload can continue an interrupted one for the same readers.
func TestSecondFetchContinues(t *testing.T) {
	s, u := testStore(t, 64*mib)
	content := testutil.RandomBytes(mib)
	d := digest.FromBytes(content)
	g := u.Grow(d, mib)
	r := newReader(t, g, 0)
	c := WithGrowing(ctx, g)
	repo := repository(t, u, "r")
	first, err := repo.Blobs(c).Create(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Write(content[:400*kib]); err != nil {
		t.Fatal(err)
	}
	if err := first.Cancel(c); err != nil {
		t.Error(err)
	}
	if err := pull(c, repo, d, content); err != nil {
		t.Error(err)
	}
	g.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	_ = r.Close()
	if !has(t, u, "r", d) {
		t.Error("not stored")
	}
	checkCount(t, s)
}
