// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestStartRemovesWhatIsUnfinished checks that files left by a crash are removed.
func TestStartRemovesWhatIsUnfinished(t *testing.T) {
	s, u := testStore(t, 4*mib)
	good := keep(t, u, "good", testutil.RandomBytes(100*kib))
	torn := keep(t, u, "torn", testutil.RandomBytes(100*kib))
	gone := keep(t, u, "gone", testutil.RandomBytes(100*kib))
	unlinked := digest.FromString("its link was not written to the disk")
	write := func(p string, size int) {
		name := s.diskPath(p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, make([]byte, size), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write(tmpPath+"/grow-7", 9000)
	write(tmpPath+"/put-8", 9)
	write(u.path(reposDir+"a/_manifests/tags/v1/current/link"), 0)
	write(u.path(reposDir+"a/_manifests/tags/v2/current/link"), 71)
	write(u.path(linkPath("a", unlinked)), 0)
	write(u.path(linkPath("a", good)), 0) // its path has the digest
	write(u.path(linkPath("a", digest.SHA512.FromString("alias"))), 71)
	if err := errors.Join(
		os.Truncate(s.diskPath(u.path(dataPath(torn))), 0),
		os.Remove(s.diskPath(u.path(dataPath(gone)))),
		os.Symlink("/etc/passwd", s.diskPath(u.path("/docker/link"))),
		os.MkdirAll(s.diskPath(u.path(reposDir+"empty/_uploads/1")), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	s, u = reopen(t, s)
	checkCount(t, s)
	if _, ok := u.Has("torn", torn); ok {
		t.Error("an empty file is taken for a blob")
	}
	if !has(t, u, "good", good) || !has(t, u, "a", good) || has(t, u, "torn", torn) || has(t, u, "gone", gone) {
		t.Error("the wrong things went")
	}
	_ = filepath.WalkDir(s.diskPath(upstreamPath+"/one"), func(name string, e os.DirEntry, _ error) error {
		for _, rest := range []string{"torn", "gone", "empty", "a/_manifests", "a/_layers/sha512"} {
			if strings.Contains(name, "repositories/"+rest) || strings.Contains(name, unlinked.Encoded()) {
				t.Errorf("left: %s", name)
			}
		}
		return nil
	})
	if left, _ := os.ReadDir(s.diskPath(tmpPath)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestAdopt takes over content of the unmodified registry, and verifies it like content of an earlier process.
func TestAdopt(t *testing.T) {
	s, u := testStore(t, 4*mib)
	d := keep(t, u, "r", testutil.RandomBytes(200*kib))
	if err := errors.Join(
		s.Close(),
		os.Rename(s.diskPath(u.path("/docker")), s.diskPath("/docker")),
		os.Remove(s.diskPath(formatPath)),
		os.MkdirAll(s.diskPath("/docker/registry/v2/repositories/r/_uploads/1"), 0o755),
		os.WriteFile(s.diskPath("/docker/registry/v2/repositories/r/_uploads/1/data"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	opts := s.opts
	opts.Adopt = "old"
	s = openStore(t, opts)
	old, err := s.Upstream("old")
	if err != nil {
		t.Fatal(err)
	}
	checkCount(t, s)
	if !has(t, old, "r", d) || s.Stats().VerifiedBytes != 200*kib {
		t.Error("not taken over")
	}
	if _, err := os.Stat(s.diskPath(old.path(reposDir + "r/_uploads"))); err == nil {
		t.Error("an unfinished upload of the unmodified registry was kept")
	}
	opts.Path, opts.Adopt = t.TempDir(), "../x"
	if err := newStore(opts).open(); !errors.As(err, new(*ConfigError)) {
		t.Error(err)
	}
}

// TestOtherFiles checks that other files are evicted like blobs, so that nothing can fill the store permanently.
func TestOtherFiles(t *testing.T) {
	s, u := testStore(t, mib)
	for i := range 20 {
		if err := u.PutContent(ctx, "/manifests/"+string(rune('a'+i)), testutil.RandomBytes(100*kib)); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 { // used more often than the others
			if _, err := u.GetContent(ctx, "/manifests/a"); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := u.GetContent(ctx, "/manifests/t"); err != nil {
		t.Error(err)
	}
	if _, err := u.GetContent(ctx, "/manifests/b"); err == nil {
		t.Error("the oldest file was not evicted")
	}
	if st := s.Stats(); st.Evictions < 10 || st.PeakBytes > mib {
		t.Errorf("%+v", st)
	}
	s, _ = reopen(t, s)
	checkCount(t, s)
	for s.evictOldest(nil) {
	}
	if st := s.Stats(); st.Blobs != 0 || st.UsedBytes > 100*kib {
		t.Errorf("%+v", st)
	}
}

func FuzzPaths(f *testing.F) {
	d := digest.FromString("x")
	for _, p := range []string{
		"/docker/registry/v2/blobs/sha256/" + d.Encoded()[:2] + "/" + d.Encoded() + "/data",
		linkPath("a/b", d), "/docker/registry/v2/repositories/r/_manifests/tags/v1/current/link", "/x/link", "/link",
		reposDir + "link", "/docker/registry/v2/blobs/sha256/aa/data", "/docker/registry/v2/blobs/sha512/aa/aa/data",
	} {
		f.Add(p, d.String())
	}
	f.Fuzz(func(t *testing.T, p, says string) {
		c := contentOf(upstreamPath+"/one"+p, []byte(says))
		d := c.key.digest
		if d != "" && d.Validate() != nil {
			t.Errorf("%q names %q", p, d)
		}
		if d != "" && c.data && dataPath(d) != p {
			t.Errorf("%q is not %q", p, dataPath(d))
		}
		if isLink(p) {
			if d := linkDigest(p); d != "" && d.Validate() != nil {
				t.Errorf("%q names %q", p, d)
			}
		}
	})
}
