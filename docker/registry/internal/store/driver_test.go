// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestPathsOutside refuses what would leave the upstream's directory.
func TestPathsOutside(t *testing.T) {
	_, u := testStore(t, mib)
	for _, p := range []string{"/a/../b", "/a/./b", "/..", "/a/..", "/../two/x", "", "/"} {
		if err := u.PutContent(ctx, p, nil); !errors.As(err, &driver.InvalidPathError{}) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// TestFactory hands the driver to distribution by its configuration.
func TestFactory(t *testing.T) {
	_, u := testStore(t, mib)
	c := u.Configuration()
	got, err := factory.Create(ctx, c.Type(), c.Parameters())
	if err != nil || got != u {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := factory.Create(ctx, DriverName, nil); err == nil || !strings.Contains(err.Error(), parameter) {
		t.Errorf("without the parameter: %v", err)
	}
}

func repository(t testing.TB, u *Upstream, name string) distribution.Repository {
	t.Helper()
	registry, err := storage.NewRegistry(ctx, u, storage.EnableDelete, storage.DisableDigestResumption)
	if err != nil {
		t.Fatal(err)
	}
	named, err := reference.WithName(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.Repository(ctx, named)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pull writes a blob by distribution's own code, as its proxy does.
func pull(c context.Context, r distribution.Repository, d digest.Digest, content []byte) error {
	w, err := r.Blobs(c).Create(c)
	if err != nil {
		return err
	}
	for len(content) > 0 && err == nil {
		k := min(len(content), 32*kib)
		_, err = w.Write(content[:k])
		content = content[k:]
	}
	if err == nil {
		_, err = w.Commit(c, v1.Descriptor{Digest: d})
	}
	if err != nil {
		return errors.Join(err, w.Cancel(c))
	}
	return nil
}

// TestDistribution stores blobs by distribution's code: known and unknown to other repositories, empty, of sha512.
func TestDistribution(t *testing.T) {
	s, u := testStore(t, 64*mib)
	one, two := repository(t, u, "some/one"), repository(t, u, "some/two")
	large, empty := randomBytes(3*mib), []byte{}
	sha512 := digest.SHA512.FromBytes(large)
	for _, p := range []struct {
		r       distribution.Repository
		d       digest.Digest
		content []byte
	}{
		{one, digest.FromBytes(large), large}, {two, digest.FromBytes(large), large},
		{one, digest.FromBytes(empty), empty}, {two, sha512, large},
	} {
		if err := pull(ctx, p.r, p.d, p.content); err != nil {
			t.Fatal(err)
		}
		if desc, err := p.r.Blobs(ctx).Stat(ctx, p.d); err != nil || desc.Size != int64(len(p.content)) {
			t.Errorf("%s: %v, %v", p.d, desc, err)
		}
		if got, err := p.r.Blobs(ctx).Get(ctx, p.d); err != nil || string(got) != string(p.content) {
			t.Errorf("%s: %d bytes, %v", p.d, len(got), err)
		}
	}
	if err := pull(ctx, one, digest.FromString("other"), []byte("wrong")); err == nil {
		t.Error("wrong bytes were committed")
	}
	check := func(s *Store, u *Upstream) {
		t.Helper()
		checkCount(t, s)
		if !has(t, u, "some/two", sha512) || has(t, u, "some/one", sha512) || !has(t, u, "some/one", digest.FromBytes(empty)) {
			t.Error("a repository has what it never had, or lost what it had")
		}
		if size, ok := u.Has("some/two", sha512); !ok || size != 3*mib {
			t.Errorf("has %d, %v", size, ok)
		}
		if st := s.Stats(); st.Unkept != 0 || st.Corrupt != 0 {
			t.Errorf("%+v", st)
		}
	}
	check(s, u)
	check(reopen(t, s))
}

// TestCountIsTrue writes, moves, cancels and drops at random from several goroutines; then the count must be du's.
func TestCountIsTrue(t *testing.T) {
	const limit = 2 * mib
	s, u := testStore(t, limit)
	var workers sync.WaitGroup
	for worker := range 4 {
		workers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 1))
			for i := range 60 {
				content := []byte(strings.Repeat(fmt.Sprint(r.IntN(40), " "), 1+r.IntN(30)*kib))
				d := digest.FromBytes(content)
				repo := fmt.Sprint("r", r.IntN(5))
				tag := fmt.Sprintf("%s%s/_manifests/tags/t%d/", reposDir, repo, r.IntN(3))
				at := fmt.Sprintf("%s%s/_uploads/%d-%d", reposDir, repo, worker, i)
				switch r.IntN(6) {
				case 0, 1:
					_ = u.PutContent(ctx, at+"/startedat", []byte("now"))
					w, err := u.Writer(ctx, at+"/data", false)
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = w.Write(content)
					if r.IntN(3) > 0 && w.Commit(ctx) == nil {
						_ = w.Close()
						_ = u.Move(ctx, at+"/data", dataPath(d))
						_ = u.PutContent(ctx, linkPath(repo, d), []byte(d))
					} else if err := w.Cancel(ctx); err != nil {
						t.Error(err)
					}
					_ = u.Delete(ctx, at)
				case 2:
					_ = u.PutContent(ctx, linkPath(repo, d), []byte(d))
				case 3:
					_ = u.PutContent(ctx, tag+"index/sha256/"+d.Encoded()+"/link", []byte(d))
					_ = u.PutContent(ctx, tag+"current/link", []byte(d))
				case 4:
					s.mu.Lock()
					b := s.blobs[blobKey{upstream: "one", digest: d}]
					s.mu.Unlock()
					if b != nil {
						s.drop(b, false)
					}
				case 5:
					if b, err := u.Open(ctx, repo, d); err == nil {
						_ = u.Delete(ctx, dataPath(d))
						_ = b.Close()
					}
				}
			}
		})
	}
	workers.Wait()
	checkCount(t, s)
	if st := s.Stats(); st.PeakBytes > limit || st.Evictions == 0 {
		t.Errorf("%+v", st)
	}
	s, _ = reopen(t, s)
	checkCount(t, s)
	for s.evictOldest(nil) {
	}
	checkCount(t, s)
	if left, _ := os.ReadDir(s.real(upstreamPath + "/one")); len(left) > 0 {
		t.Errorf("left on disk: %v", left)
	}
}

// TestDirectoriesGrow fills one directory until it needs more than a block.
func TestDirectoriesGrow(t *testing.T) {
	s, u := testStore(t, 1<<30)
	for i := range 300 {
		d := digest.FromString(fmt.Sprint(i))
		if err := u.PutContent(ctx, linkPath("r", d), []byte(d)); err != nil {
			t.Fatal(err)
		}
	}
	checkCount(t, s)
}

// TestOrderOfUse drops what was not used for the longest time, and nothing that is open, also after a restart.
func TestOrderOfUse(t *testing.T) {
	s, u := testStore(t, mib)
	var blobs []digest.Digest
	for range 8 {
		blobs = append(blobs, keep(t, u, "r", randomBytes(90*kib)))
	}
	for i, d := range blobs { // as if they were stored an hour ago, one after the other
		at := s.now().Add(-3600e9 + 1e9*durationOf(i))
		if err := os.Chtimes(s.real(u.path(dataPath(d))), at, at); err != nil {
			t.Fatal(err)
		}
	}
	s, u = reopen(t, s)
	if !has(t, u, "r", blobs[0]) {
		t.Fatal("not kept")
	}
	s, u = reopen(t, s)                                        // and the use of the first is known to the next process
	if _, err := u.Stat(ctx, dataPath(blobs[1])); err != nil { // counts as use
		t.Fatal(err)
	}
	keep(t, u, "r", randomBytes(180*kib))
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

// TestOpenBlobsStay evicts what was used later, but has no readers.
func TestOpenBlobsStay(t *testing.T) {
	s, u := testStore(t, mib)
	first := keep(t, u, "r", randomBytes(200*kib))
	open, err := u.Open(ctx, "r", first)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		keep(t, u, "r", randomBytes(200*kib))
	}
	if _, ok := u.Has("r", first); !ok {
		t.Error("dropped while it is open")
	}
	_ = open.Close()
	for range 10 {
		keep(t, u, "r", randomBytes(200*kib))
	}
	if _, ok := u.Has("r", first); ok {
		t.Error("never dropped")
	}
	checkCount(t, s)
}

// TestOpenFilesAreCharged drops a blob that is open: its blocks count until it is closed.
func TestOpenFilesAreCharged(t *testing.T) {
	s, u := testStore(t, 4*mib)
	content := randomBytes(2 * mib)
	d := keep(t, u, "r", content)
	open, err := u.Open(ctx, "r", d)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Delete(ctx, dataPath(d)); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.OrphanBytes < 2*mib || st.UsedBytes < 2*mib {
		t.Errorf("%+v", st)
	}
	if s.reserve(3 * mib) {
		t.Error("room was given that an open file takes")
	}
	if got, err := readAll(open); err != nil || digest.FromBytes(got) != d {
		t.Errorf("cut: %v", err)
	}
	_ = open.Close()
	checkCount(t, s)
	if !s.reserve(3 * mib) {
		t.Error("no room though it was closed")
	}
}

// TestLowerLimit opens a store with less room than it has content.
func TestLowerLimit(t *testing.T) {
	s, u := testStore(t, 4*mib)
	for range 10 {
		keep(t, u, "r", randomBytes(200*kib))
	}
	s.opts.Limit = mib
	s, _ = reopen(t, s)
	checkCount(t, s)
	if used := s.Stats().UsedBytes; used > mib || used < mib/2 {
		t.Errorf("used %d", used)
	}
}

// TestTagThatCannotBeWritten must not name its old manifest any longer.
func TestTagThatCannotBeWritten(t *testing.T) {
	s, u := testStore(t, mib)
	const link = reposDir + "r/_manifests/tags/latest/current/link"
	before, after := digest.FromString("before"), digest.FromString("after")
	_ = u.PutContent(ctx, link, []byte(before))
	first, err := os.Stat(s.real(u.path(link)))
	if err != nil {
		t.Fatal(err)
	}
	_ = u.PutContent(ctx, link, []byte(before))
	if second, err := os.Stat(s.real(u.path(link))); err != nil || !os.SameFile(first, second) {
		t.Error("the same content was written again")
	}
	var taken int64
	for s.take(block) { // uploads in flight
		taken += block
	}
	s.mu.Lock()
	for _, b := range s.blobs { // and nothing can be dropped
		s.openLocked(anyLink(b))
		b.data = anyLink(b)
		s.orderLocked(b)
	}
	s.mu.Unlock()
	if err := u.PutContent(ctx, link, []byte(after)); err != nil {
		t.Errorf("a pull fails for want of room: %v", err)
	}
	if got, err := u.GetContent(ctx, link); err == nil {
		t.Errorf("still %s", got)
	}
}

func anyLink(b *blob) *node {
	for n := range b.links {
		return n
	}
	return nil
}

// TestFaults makes steps on the disk fail.
func TestFaults(t *testing.T) {
	for _, test := range []struct {
		name  string
		err   error
		times int
		kept  bool
	}{
		{"full, but not when something is dropped", syscall.ENOSPC, 1, true},
		{"full whatever is dropped", syscall.ENOSPC, 1000, false},
		{"quota", syscall.EDQUOT, 1, true},
		{"broken", syscall.EIO, 1, false},
	} {
		for _, step := range []string{"create", "write", "fsync", "rename", "link"} {
			t.Run(test.name+" at "+step, func(t *testing.T) {
				s, u := testStore(t, 8*mib)
				for range 10 {
					keep(t, u, "old", randomBytes(100*kib))
				}
				times := test.times
				s.fault = func(at string) error {
					if at == step {
						if times--; times >= 0 {
							return &fs.PathError{Op: step, Path: "x", Err: test.err}
						}
					}
					return nil
				}
				content := randomBytes(300 * kib)
				d := digest.FromBytes(content)
				err := pull(ctx, repository(t, u, "r"), d, content)
				s.fault = func(string) error { return nil }
				kept := test.kept && (step != "fsync")
				if _, ok := u.Has("r", d); ok != kept {
					t.Errorf("kept: %v, want %v (%v)", ok, kept, err)
				}
				if ok := has(t, u, "r", d); ok != kept {
					t.Errorf("right: %v, want %v", ok, kept)
				}
				checkCount(t, s)
				if left, _ := os.ReadDir(s.real(tmpPath)); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			})
		}
	}
}

// TestCannotDrop keeps counting what it cannot remove, and does not try for ever.
func TestCannotDrop(t *testing.T) {
	s, u := testStore(t, mib)
	d := keep(t, u, "r", randomBytes(500*kib))
	p := s.real(u.path(dataPath(d)))
	if err := errors.Join(os.Remove(p), os.MkdirAll(p+"/in/the/way", 0o755)); err != nil {
		t.Fatal(err)
	}
	if s.reserve(800 * kib) {
		t.Error("took room that is not there")
	}
	if s.used < 500*kib || s.evictable != 0 {
		t.Errorf("counted %d, of which %d can be dropped", s.used, s.evictable)
	}
}
