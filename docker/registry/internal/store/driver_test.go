// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestPathsOutside checks that paths outside of the upstream's directory are refused.
func TestPathsOutside(t *testing.T) {
	_, u := testStore(t, mib)
	for _, p := range []string{"/a/../b", "/a/./b", "/..", "/a/..", "/../two/x", "", "/"} {
		if err := u.PutContent(ctx, p, nil); !errors.As(err, &driver.InvalidPathError{}) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// TestFactory checks that distribution gets the driver from its configuration.
func TestFactory(t *testing.T) {
	_, u := testStore(t, mib)
	c := u.Configuration()
	got, err := factory.Create(ctx, c.Type(), c.Parameters())
	if err != nil || got != u {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := factory.Create(ctx, DriverName, nil); err == nil || !strings.Contains(err.Error(), driverParameter) {
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

// pull writes a blob with distribution's code, like its proxy mode.
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

// TestDistribution stores blobs with distribution's code: known and unknown in other repositories, empty, and with
// sha512 digests.
func TestDistribution(t *testing.T) {
	s, u := testStore(t, 64*mib)
	one, two := repository(t, u, "some/one"), repository(t, u, "some/two")
	large, empty := testutil.RandomBytes(3*mib), []byte{}
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

// TestTagThatCannotBeWritten checks that a tag that cannot be written does not keep its old manifest.
func TestTagThatCannotBeWritten(t *testing.T) {
	s, u := testStore(t, mib)
	const link = reposDir + "r/_manifests/tags/latest/current/link"
	before, after := digest.FromString("before"), digest.FromString("after")
	_ = u.PutContent(ctx, link, []byte(before))
	first, err := os.Stat(s.diskPath(u.path(link)))
	if err != nil {
		t.Fatal(err)
	}
	_ = u.PutContent(ctx, link, []byte(before))
	if second, err := os.Stat(s.diskPath(u.path(link))); err != nil || !os.SameFile(first, second) {
		t.Error("the same content was written again")
	}
	var taken int64
	for s.take(block) { // uploads in flight
		taken += block
	}
	s.mu.Lock()
	for _, b := range s.blobs { // and nothing can be evicted
		s.retainFDLocked(anyLink(b))
		b.data = anyLink(b)
		s.orderLocked(b)
	}
	s.mu.Unlock()
	if err := u.PutContent(ctx, link, []byte(after)); err != nil {
		t.Errorf("a pull fails for lack of room: %v", err)
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

// TestFaults makes disk operations fail.
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
					keep(t, u, "old", testutil.RandomBytes(100*kib))
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
				content := testutil.RandomBytes(300 * kib)
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
				if left, _ := os.ReadDir(s.diskPath(tmpPath)); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			})
		}
	}
}
