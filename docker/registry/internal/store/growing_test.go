// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

func newReader(t testing.TB, g *Growing, off int64) *Reader {
	t.Helper()
	r, err := g.NewReader(ctx, off)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// readable reads all bytes that are available without waiting.
func readable(t testing.TB, r *Reader) []byte {
	t.Helper()
	var all []byte
	for {
		r.g.mu.Lock()
		left := r.g.limitLocked() - r.off
		r.g.mu.Unlock()
		if left <= 0 {
			return all
		}
		p := make([]byte, left)
		n, err := r.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p[:n]...)
	}
}

// TestReadersFollow reads an upload at several offsets. Readers get the last bytes after the digest was verified and
// before the commit.
func TestReadersFollow(t *testing.T) {
	for _, size := range []int64{3 * mib, -1} {
		s, u := testStore(t, 64*mib)
		content := testutil.RandomBytes(3 * mib)
		d := digest.FromBytes(content)
		g := u.Grow(d, size)
		committing, goOn := make(chan struct{}), make(chan struct{})
		s.fault = func(step string) error {
			if step == "fsync" {
				close(committing)
				<-goOn
			}
			return nil
		}
		var readers sync.WaitGroup
		for _, off := range []int64{0, 1, 2 * mib, 3*mib - 1} {
			r := newReader(t, g, off)
			readers.Go(func() {
				defer r.Close()
				got, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(got, content[off:]) {
					t.Errorf("from %d: %d bytes, %v", off, len(got), err)
				}
			})
		}
		kept := make(chan error)
		go func() { kept <- pull(WithGrowing(ctx, g), repository(t, u, "r"), d, content) }()
		<-committing
		readers.Wait() // they do not wait for fsync
		late := newReader(t, g, 0)
		close(goOn)
		if err := <-kept; err != nil {
			t.Error(err)
		}
		g.Close()
		if got, err := io.ReadAll(late); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		_ = late.Close()
		if _, err := g.NewReader(ctx, 0); !errors.Is(err, ErrClosed) {
			t.Errorf("too late: %v", err)
		}
		if !has(t, u, "r", d) {
			t.Error("not stored")
		}
		if st := s.Stats(); st.VerifiedBytes != 0 {
			t.Error("hashed again by the process that wrote it")
		}
		checkCount(t, s)
	}
}

// TestEndIsWithheld checks that the last bytes are released only if the digest matches.
func TestEndIsWithheld(t *testing.T) {
	for _, test := range []struct {
		name string
		size int64 // announced size
		end  func(content []byte) []byte
		err  error
	}{
		{"right", 100 * kib, func(c []byte) []byte { return c }, nil},
		{"right, of unknown size", -1, func(c []byte) []byte { return c }, nil},
		{"wrong", 100 * kib, func(c []byte) []byte { return append(c[:len(c)-1:len(c)-1], c[len(c)-1]^1) }, ErrDigest},
		{"wrong, of unknown size", -1, func(c []byte) []byte { return append(c[:len(c)-1:len(c)-1], c[len(c)-1]^1) }, ErrDigest},
		{"short", 100 * kib, func(c []byte) []byte { return c[:len(c)-1] }, ErrShort},
		{"long", 100 * kib, func(c []byte) []byte { return append(c[:len(c):len(c)], 1) }, ErrLong},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, u := testStore(t, 64*mib)
			content := testutil.RandomBytes(100 * kib)
			body := test.end(content)
			g := u.Grow(digest.FromBytes(content), test.size)
			r := newReader(t, g, 0)
			_, _ = g.Write(body[:99*kib])
			got := readable(t, r)
			if len(got) < 98*kib || test.size < 0 && int64(len(got)) > 99*kib-s.opts.Hold {
				t.Errorf("%d bytes are passed on at once", len(got))
			}
			_, _ = g.Write(body[99*kib:])
			g.Finish(nil)
			rest, err := io.ReadAll(r)
			got = append(got, rest...)
			if !errors.Is(err, test.err) {
				t.Errorf("%v, want %v", err, test.err)
			}
			if test.err == nil && !bytes.Equal(got, content) {
				t.Errorf("%d bytes", len(got))
			}
			if test.err != nil && int64(len(got)) > 100*kib-s.opts.Hold {
				t.Errorf("%d bytes of something wrong", len(got))
			}
			g.Close()
			_ = r.Close()
			checkCount(t, s)
			if left, _ := os.ReadDir(s.diskPath(tmpPath)); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestKeep stores a blob that did not come through distribution, for example from a peer.
func TestKeep(t *testing.T) {
	s, u := testStore(t, 4*mib)
	content := testutil.RandomBytes(mib)
	g := u.Grow(digest.FromBytes(content), mib)
	r := newReader(t, g, 0)
	if err := g.Keep(u, "r"); !errors.Is(err, ErrNotKept) {
		t.Errorf("stored before it was complete: %v", err)
	}
	slowly(g, content)
	if err := g.Keep(u, "../r"); err == nil {
		t.Error("stored for an invalid repository")
	}
	for _, repository := range []string{"r", "some/other"} {
		if err := g.Keep(u, repository); err != nil {
			t.Error(err)
		}
	}
	g.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	_ = r.Close()
	if !has(t, u, "r", g.Digest()) || !has(t, u, "some/other", g.Digest()) || s.Stats().VerifiedBytes != 0 {
		t.Error("not stored, or hashed again")
	}
	checkCount(t, s)
	large := u.Grow(digest.FromString("x"), 5*mib)
	_, _ = large.Write(content)
	large.Close()
	if err := large.Keep(u, "r"); !errors.Is(err, ErrNotKept) {
		t.Error(err)
	}
	checkCount(t, s)
}

// TestSetSize checks that SetSize reserves room like Grow, and only before the first byte.
func TestSetSize(t *testing.T) {
	s, u := testStore(t, 64*mib)
	content := testutil.RandomBytes(4 * mib)
	old := keep(t, u, "r", testutil.RandomBytes(62*mib))
	empty := s.Stats().UsedBytes
	g := u.Grow(digest.FromBytes(content), -1)
	if st := s.Stats(); st.UsedBytes != empty || !has(t, u, "r", old) {
		t.Errorf("%d bytes are used before the size is known", st.UsedBytes-empty)
	}
	g.SetSize(-1)
	g.SetSize(int64(len(content)))
	g.SetSize(1) // too late
	if g.Size() != int64(len(content)) || has(t, u, "r", old) {
		t.Errorf("a size of %d, and no room made", g.Size())
	}
	if used := s.Stats().UsedBytes; used < int64(len(content)) {
		t.Errorf("only %d bytes are reserved", used)
	}
	if err := tryKeep(u, "r", g.Digest(), content, g); err != nil {
		t.Error(err)
	}
	g.SetSize(1)
	g.Close()
	if !has(t, u, "r", g.Digest()) || g.Size() != int64(len(content)) {
		t.Error("not stored")
	}

	begun := u.Grow(digest.FromBytes(content), -1)
	if _, err := begun.Write(content[:1]); err != nil {
		t.Fatal(err)
	}
	begun.SetSize(2)
	ended := u.Grow(digest.FromBytes(content), -1)
	ended.Close()
	before := s.Stats().UsedBytes
	ended.SetSize(mib)
	if begun.Size() != -1 || ended.Size() != -1 || s.Stats().UsedBytes != before {
		t.Error("a size was taken too late")
	}
	begun.Close()
	large := u.Grow(digest.FromBytes(content), -1)
	large.SetSize(65 * mib)
	r := newReader(t, large, 0)
	go func() { _, _ = large.Write(content) }()
	if _, err := io.ReadFull(r, make([]byte, mib)); err != nil || !has(t, u, "r", digest.FromBytes(content)) {
		t.Errorf("what has no room made room: %v", err)
	}
	large.Close()
	_ = r.Close()
	checkCount(t, s)
}
