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
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestReaderEndsWithContext checks that a waiting reader ends with its context.
func TestReaderEndsWithContext(t *testing.T) {
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
	g.Close() // no more writes
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

// TestSendfile serves a growing file over HTTP, completely and in ranges.
func TestSendfile(t *testing.T) {
	s, u := testStore(t, 64*mib)
	content := testutil.RandomBytes(4 * mib)
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

// readFrom is a connection that records the readers passed to ReadFrom.
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

// TestCopyUsesSendfile checks that content in a file is sent with sendfile.
func TestCopyUsesSendfile(t *testing.T) {
	_, u := testStore(t, 64*mib)
	content := testutil.RandomBytes(mib)
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
