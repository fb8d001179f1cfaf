// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"
	"testing"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// fileWriter is a response that records the readers it is given.
type fileWriter struct {
	http.ResponseWriter
	files int
}

func (w *fileWriter) ReadFrom(r io.Reader) (int64, error) {
	if l, ok := r.(*io.LimitedReader); ok {
		if _, ok := l.R.(*os.File); ok {
			w.files++
		}
	}
	return io.Copy(struct{ io.Writer }{w.ResponseWriter}, r)
}

// TestSendfile checks that growing and complete blobs are sent with sendfile, and small blobs are sent without a file.
func TestSendfile(t *testing.T) {
	c := newCache(t, nil)
	serve := func(q route.Request, head ...string) int {
		r := httptest.NewRequest(http.MethodGet, q.Path(), nil)
		for i := 0; i < len(head); i += 2 {
			r.Header.Set(head[i], head[i+1])
		}
		w := &fileWriter{ResponseWriter: httptest.NewRecorder()}
		c.Serve(w, r, q)
		return w.files
	}
	content := testutil.RandomBytes(mib)
	q := blob("a/b", c.add(content))
	for _, what := range []string{"growing", "finished"} {
		if n := serve(q); n == 0 {
			t.Errorf("%s: no file", what)
		}
		testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
		if n := serve(q, "Range", "bytes=100-"); n == 0 {
			t.Errorf("%s, range: no file", what)
		}
	}
	small := blob("a/b", c.add(testutil.RandomBytes(2*kib)))
	serve(small)
	testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
	serve(small)
	if n := serve(small); n != 0 || c.disk.Stats().MemoryBytes != 2*kib {
		t.Error("a small blob is not served from memory")
	}
}

// TestBytesAreSentAtOnce checks that nothing waits for bytes that come later: neither the header of a range that has not
// arrived, nor one of several ranges.
func TestBytesAreSentAtOnce(t *testing.T) {
	c := newCache(t, nil)
	content := testutil.RandomBytes(mib)
	q := blob("a/b", c.add(content))
	goOn := make(chan struct{})
	c.script = func(_ context.Context, _ route.Request, s *sink) error {
		if _, err := s.Write(s.content[:mib/2]); err != nil {
			return err
		}
		<-goOn
		_, err := s.Write(s.content[mib/2:])
		return err
	}
	s, web := c.listen(), client(t, false)
	var open []io.ReadCloser
	for _, header := range []string{"bytes=1000000-", "bytes=0-9,1000000-"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+q.Path(), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Range", header)
		a, err := web.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if a.StatusCode != http.StatusPartialContent {
			t.Errorf("%s: %d", header, a.StatusCode)
		}
		open = append(open, a.Body)
	}
	early := make([]byte, 200) // the boundary, the part's header and its ten bytes
	if n, err := io.ReadAtLeast(open[1], early, 150); err != nil || !bytes.Contains(early[:n], content[:10]) {
		t.Errorf("%d bytes, %v", n, err)
	}
	close(goOn)
	for _, body := range open {
		if _, err := io.Copy(io.Discard, body); err != nil {
			t.Error(err)
		}
		_ = body.Close()
	}
}

// breakingWriter is a response that ends early, because the disk fails, the file is truncated, or the client
// disconnects.
type breakingWriter struct {
	http.ResponseWriter
	ending func(*os.File) error
	file   *os.File
	sent   int
}

func (w *breakingWriter) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{w}, r)
}

func (w *breakingWriter) Write(p []byte) (int, error) {
	if w.sent += len(p); w.sent > mib/4 && w.ending != nil {
		ending := w.ending
		w.ending = nil
		if err := ending(w.file); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// TestBrokenFile checks that a blob is fetched again after a disk error, and not after a client has disconnected.
func TestBrokenFile(t *testing.T) {
	memory, err := os.Open("/proc/self/mem") // whose first page cannot be read: EIO
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	for name, test := range map[string]struct {
		ending func(*os.File) error
		broken bool
	}{
		"disk":   {func(f *os.File) error { return syscall.Dup3(int(memory.Fd()), int(f.Fd()), syscall.O_CLOEXEC) }, true},
		"cut":    {func(f *os.File) error { return os.Truncate(f.Name(), mib/2) }, true},
		"client": {func(*os.File) error { return errors.New("the client has gone") }, false},
	} {
		for _, ranges := range []string{"", "bytes=10-", "bytes=0-9,20-"} {
			c := newCache(t, nil)
			content := testutil.RandomBytes(mib)
			q := blob("a/b", c.add(content))
			wantBlob(t, name, c.get(q), content)
			testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
			r := httptest.NewRequest(http.MethodGet, q.Path(), nil)
			if ranges != "" {
				r.Header.Set("Range", ranges)
			}
			b, err := c.open(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			file, ok := b.Content().(*os.File)
			if !ok {
				t.Fatalf("served as a %T", b.Content())
			}
			serveFile(&breakingWriter{ResponseWriter: httptest.NewRecorder(), ending: test.ending, file: file}, r, q, b, file)
			_ = b.Close()
			wantBlob(t, name+" "+ranges+" then", c.get(q), content)
			want := map[bool]int64{true: 1, false: 0}[test.broken]
			if n, st := c.fetches.Load(), c.disk.Stats(); n != 1+want || st.Corrupt != want {
				t.Errorf("%s %s: %d fetches, %+v", name, ranges, n, st)
			}
			c.close()
		}
	}
}
