// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
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

// readable reads what can be read without waiting.
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

// TestReadersFollow reads at several offsets what one upload writes, and gets the end when the digest is right, which is
// before the commit.
func TestReadersFollow(t *testing.T) {
	for _, size := range []int64{3 * mib, -1} {
		s, u := testStore(t, 64*mib)
		content := randomBytes(3 * mib)
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
			t.Error("not kept")
		}
		if st := s.Stats(); st.VerifiedBytes != 0 {
			t.Error("hashed again by the process that wrote it")
		}
		checkCount(t, s)
	}
}

// TestEndIsWithheld gives out the last bytes only of what is right.
func TestEndIsWithheld(t *testing.T) {
	for _, test := range []struct {
		name string
		size int64 // announced
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
			content := randomBytes(100 * kib)
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
			if left, _ := os.ReadDir(s.real(tmpPath)); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestFailedCommitCutsNobody fails after the last byte.
func TestFailedCommitCutsNobody(t *testing.T) {
	for _, step := range []string{"fsync", "rename"} {
		s, u := testStore(t, 64*mib)
		content := randomBytes(mib)
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

// TestClosedBeforeTheCommit keeps nothing, least of all an empty file.
func TestClosedBeforeTheCommit(t *testing.T) {
	s, u := testStore(t, 64*mib)
	for _, content := range [][]byte{randomBytes(mib), {}} {
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

// TestSecondFetchGoesOn is cut in the middle, and goes on by another upload for the same readers.
func TestSecondFetchGoesOn(t *testing.T) {
	s, u := testStore(t, 64*mib)
	content := randomBytes(mib)
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
		t.Error("not kept")
	}
	checkCount(t, s)
}

// TestKeep stores what came without distribution, from a peer for example.
func TestKeep(t *testing.T) {
	s, u := testStore(t, 4*mib)
	content := randomBytes(mib)
	g := u.Grow(digest.FromBytes(content), mib)
	r := newReader(t, g, 0)
	if err := g.Keep(u, "r"); !errors.Is(err, ErrNotKept) {
		t.Errorf("kept before it was whole: %v", err)
	}
	slowly(g, content)
	if err := g.Keep(u, "../r"); err == nil {
		t.Error("kept for what is no repository")
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
		t.Error("not kept, or hashed again")
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

// TestReaderLeaves ends by its context, while it waits.
func TestReaderLeaves(t *testing.T) {
	s, u := testStore(t, 64*mib)
	g := u.Grow(digest.FromString("x"), mib)
	c, cancel := context.WithCancel(ctx)
	r, err := g.NewReader(c, 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := io.ReadAll(r)
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	waits := newReader(t, g, 10)
	go func() {
		_, err := io.ReadAll(waits)
		ended <- err
	}()
	g.Close() // nobody writes any more
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	_ = r.Close()
	_ = waits.Close()
	checkCount(t, s)
}

// slowly writes content in small pieces.
func slowly(g *Growing, content []byte) {
	for len(content) > 0 {
		k := min(len(content), 64*kib)
		if _, err := g.Write(content[:k]); err != nil {
			return
		}
		content = content[k:]
		time.Sleep(100 * time.Microsecond)
	}
}

// TestSendfile serves a growing file by HTTP, whole and in ranges.
func TestSendfile(t *testing.T) {
	s, u := testStore(t, 64*mib)
	content := randomBytes(4 * mib)
	d := digest.FromBytes(content)
	g := u.Grow(d, 4*mib)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reader, err := g.NewReader(r.Context(), 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer reader.Close()
		if r.Header.Get("Range") != "" {
			http.ServeContent(w, r, "", time.Time{}, reader)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", "4194304")
		if n, err := reader.CopyN(w, 4*mib); n != 4*mib || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	}))
	defer server.Close()
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			q, _ := http.NewRequest(http.MethodGet, server.URL, nil)
			want := content
			if i%2 == 1 {
				q.Header.Set("Range", "bytes=1000000-3999999")
				want = content[1000000:4000000]
			}
			a, err := http.DefaultTransport.RoundTrip(q)
			if err != nil {
				t.Error(err)
				return
			}
			defer a.Body.Close()
			if got, err := io.ReadAll(a.Body); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	slowly(g, content)
	clients.Wait()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	g.Close()
	server.Close()
	checkCount(t, s)
}

// readFrom is a connection that tells what it was given to send.
type readFrom struct {
	net.Conn
	files int
}

func (c *readFrom) ReadFrom(src io.Reader) (int64, error) {
	if l, ok := src.(*io.LimitedReader); ok {
		if _, ok := l.R.(*os.File); ok {
			c.files++
		}
	}
	return io.Copy(io.Discard, src)
}

// TestCopyGivesFiles lets the kernel copy what is in a file.
func TestCopyGivesFiles(t *testing.T) {
	_, u := testStore(t, 64*mib)
	content := randomBytes(mib)
	g := u.Grow(digest.FromBytes(content), mib)
	defer g.Close()
	r := newReader(t, g, 0)
	if _, err := g.Write(content); err != nil {
		t.Fatal(err)
	}
	c := &readFrom{}
	if n, err := r.CopyN(c, mib); n != mib || err != nil || c.files != 1 {
		t.Errorf("%d bytes, %v, %d files", n, err, c.files)
	}
	if _, err := r.CopyN(c, 1); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("beyond the end: %v", err)
	}
}

// TestTwoUpstreams keeps their content apart, with one limit for both.
func TestTwoUpstreams(t *testing.T) {
	s, one := testStore(t, 4*mib)
	two, err := s.Upstream("two")
	if err != nil {
		t.Fatal(err)
	}
	content := randomBytes(mib)
	d := keep(t, one, "r", content)
	if _, ok := two.Has("r", d); ok {
		t.Error("content of another upstream")
	}
	g := two.Grow(d, mib)
	if err := pull(WithGrowing(ctx, g), repository(t, two, "r"), d, content); err != nil {
		t.Fatal(err)
	}
	g.Close()
	for range 2 {
		keep(t, two, "r", randomBytes(mib))
	}
	if _, ok := one.Has("r", d); ok || s.Stats().Evictions != 1 {
		t.Error("each upstream has a limit of its own")
	}
	if again, err := s.Upstream("two"); err != nil || again != two {
		t.Error("two drivers of one upstream")
	}
	if list, err := one.List(ctx, "/"); err != nil || strings.Contains(strings.Join(list, " "), "two") {
		t.Errorf("%v, %v", list, err)
	}
	checkCount(t, s)
}
