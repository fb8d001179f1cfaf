// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestStartRemovesWhatIsUnfinished removes what a process or machine leaves that dies.
func TestStartRemovesWhatIsUnfinished(t *testing.T) {
	s, u := testStore(t, 4*mib)
	good := keep(t, u, "good", randomBytes(100*kib))
	torn := keep(t, u, "torn", randomBytes(100*kib))
	gone := keep(t, u, "gone", randomBytes(100*kib))
	unlinked := digest.FromString("its link was not written to the disk")
	write := func(p string, size int) {
		name := s.real(p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, make([]byte, size), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write(tmpPath+"/grow-7", 9000)
	write(tmpPath+"/put-8", 9)
	write(u.path(reposDir+"a/_manifests/tags/v1/current/link"), 0)
	write(u.path(reposDir+"a/_manifests/tags/v2/current/link"), 71)
	write(u.path(linkPath("a", unlinked)), 0)
	write(u.path(linkPath("a", digest.SHA512.FromString("alias"))), 71)
	if err := errors.Join(
		os.Truncate(s.real(u.path(dataPath(torn))), 0),
		os.Remove(s.real(u.path(dataPath(gone)))),
		os.Symlink("/etc/passwd", s.real(u.path("/docker/link"))),
		os.MkdirAll(s.real(u.path(reposDir+"empty/_uploads/1")), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	s, u = reopen(t, s)
	checkCount(t, s)
	if !has(t, u, "good", good) || has(t, u, "torn", torn) || has(t, u, "gone", gone) {
		t.Error("the wrong things went")
	}
	_ = filepath.WalkDir(s.real(upstreamPath+"/one"), func(name string, e os.DirEntry, _ error) error {
		for _, rest := range []string{"torn", "gone", "empty", "/a", "tags"} {
			if strings.Contains(name[len(s.opts.Path):], "/"+strings.TrimPrefix(rest, "/")) && !strings.Contains(name, good.Encoded()) && strings.Contains(name, "repositories/"+strings.TrimPrefix(rest, "/")) {
				t.Errorf("left: %s", name)
			}
		}
		return nil
	})
	if left, _ := os.ReadDir(s.real(tmpPath)); len(left) > 0 {
		t.Errorf("left: %v", left)
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
		if c.digest != "" && c.digest.Validate() != nil {
			t.Errorf("%q names %q", p, c.digest)
		}
		if c.data && dataPath(c.digest) != p {
			t.Errorf("%q is not %q", p, dataPath(c.digest))
		}
		if isLink(p) {
			if d := linkName(p); d != "" && d.Validate() != nil {
				t.Errorf("%q names %q", p, d)
			}
		}
	})
}
