// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

var ctx = context.Background()

// testOptions returns options for a store without a scrub. The limit may be below MinLimit.
func testOptions(root string, limit int64) Options {
	return Options{Path: root, Limit: limit, ScrubRate: -1, Logger: slog.New(slog.DiscardHandler)}
}

func openStore(t testing.TB, opts Options) *Store {
	t.Helper()
	s := newStore(opts)
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func testStore(t testing.TB, limit int64) (*Store, *Upstream) {
	t.Helper()
	s := openStore(t, testOptions(t.TempDir(), limit))
	return s, upstream(t, s)
}

func upstream(t testing.TB, s *Store) *Upstream {
	t.Helper()
	u, err := s.Upstream("one")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// reopen closes a store and opens it again, like a restart.
func reopen(t testing.TB, s *Store) (*Store, *Upstream) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := openStore(t, s.opts)
	return again, upstream(t, again)
}

func du(t testing.TB, root string) (used int64) {
	t.Helper()
	err := filepath.WalkDir(root, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			used += fi.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// du0 is like du, but ignores files that are removed in the meantime.
func du0(root string) (used int64) {
	_ = filepath.WalkDir(root, func(_ string, e fs.DirEntry, err error) error {
		if err == nil {
			if fi, err := e.Info(); err == nil {
				used += fi.Sys().(*syscall.Stat_t).Blocks * 512
			}
		}
		return nil
	})
	return used
}

// checkCount compares the usage counted by the store with the disk. No file may be open or being written.
func checkCount(t testing.TB, s *Store) {
	t.Helper()
	real := du(t, s.opts.Path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used != real {
		t.Errorf("counted %d, du %d", s.used, real)
	}
	if s.orphans != 0 {
		t.Errorf("%d bytes are counted as open", s.orphans)
	}
	var used, evictable, ordered int64
	for p, n := range s.nodes {
		used += n.charge
		if n.path != p {
			t.Errorf("%s is known as %s", n.path, p)
		}
		if strings.HasPrefix(p, tmpPath+"/") {
			t.Errorf("left: %s", p)
		}
		if n.open != 0 {
			t.Errorf("%s: %d open", p, n.open)
		}
	}
	for _, b := range s.blobs {
		var c int64
		for n := range b.links {
			c += n.charge
		}
		if b.data != nil {
			c += b.data.charge
		}
		if c != b.charge {
			t.Errorf("%s: charge %d, sum %d", b.key.digest, b.charge, c)
		}
		if b.place != nil {
			ordered++
			evictable += b.charge
		}
	}
	if used != s.used || evictable != s.evictable || int(ordered) != s.order.Len()+s.relays.Len() {
		t.Errorf("used %d, sum %d; evictable %d, sum %d; %d ordered of %d", s.used, used, s.evictable, evictable, ordered, s.order.Len()+s.relays.Len())
	}
	if len(s.growing) > 0 {
		t.Errorf("%d uploads are left", len(s.growing))
	}
}

func linkPath(repository string, d digest.Digest) string {
	return reposDir + repository + "/_layers/" + string(d.Algorithm()) + "/" + d.Encoded() + "/link"
}

// keep stores a blob like distribution, but without its code.
func keep(t testing.TB, u *Upstream, repository string, content []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(content)
	if err := tryKeep(u, repository, d, content, nil); err != nil {
		t.Fatal(err)
	}
	return d
}

func tryKeep(u *Upstream, repository string, d digest.Digest, content []byte, g *Growing) error {
	at := reposDir + repository + "/_uploads/" + d.Encoded()[:8]
	c := ctx
	if g != nil {
		c = WithGrowing(ctx, g)
	}
	w, err := u.Writer(c, at+"/data", false)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, bytes.NewReader(content))
	if err == nil {
		err = w.Commit(ctx)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = u.Move(ctx, at+"/data", dataPath(d))
	}
	if err != nil {
		_ = w.Cancel(ctx)
		_ = u.Delete(ctx, at)
		return err
	}
	_ = u.Delete(ctx, at)
	return u.PutContent(ctx, linkPath(repository, d), []byte(d))
}

// has reports whether a repository has a blob. It fails the test if the bytes are wrong.
func has(t testing.TB, u *Upstream, repository string, d digest.Digest) bool {
	t.Helper()
	b, err := u.Open(ctx, repository, d)
	if err != nil {
		return false
	}
	defer b.Close()
	content, err := io.ReadAll(b.Content())
	if err != nil {
		return false
	}
	if d.Algorithm().FromBytes(content) != d {
		t.Errorf("wrong bytes of %s", d)
	}
	return true
}

func readAll(b *Blob) ([]byte, error) { return io.ReadAll(b.Content()) }

func durationOf(n int) time.Duration { return time.Duration(n) }
