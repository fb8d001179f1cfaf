// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// client returns a client whose connections are closed after the test. A small one has a small kernel buffer, so that
// unread bytes wait in the cache.
func client(t testing.TB, small bool) *http.Client {
	dialer := net.Dialer{}
	if small {
		dialer.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 64*kib)
			})
		}
	}
	transport := &http.Transport{DialContext: dialer.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// pull reads a blob, or a range of it, and compares it with want.
func pull(c *http.Client, url string, header string, want []byte, read func(io.Reader) ([]byte, error)) error {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if header != "" {
		r.Header.Set("Range", header)
		status = http.StatusPartialContent
	}
	a, err := c.Do(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	body, err := read(a.Body)
	switch {
	case err != nil:
		return fmt.Errorf("after %d bytes: %w", len(body), err)
	case a.StatusCode != status || !bytes.Equal(body, want):
		return fmt.Errorf("%d with %d bytes of %d", a.StatusCode, len(body), len(want))
	}
	return nil
}

// TestHundredClients shares a fill from a slow upstream: one fetch, and each client gets each byte soon after it has
// arrived.
func TestHundredClients(t *testing.T) {
	const clients, pieces, piece, every = 100, 20, 64 * kib, 100 * time.Millisecond
	c := newCache(t, nil)
	content := testutil.RandomBytes(pieces * piece)
	q := blob("a/b", c.add(content))
	var available, ended atomic.Int64
	c.script = func(ctx context.Context, _ route.Request, s *sink) error {
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
		available.Store(time.Now().UnixNano())
		return paced(ctx, &sink{stamped{s.Writer, &ended}, s.content}, piece, every)
	}
	s, web := c.listen(), client(t, false)
	var first, end [clients]time.Time
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			err := pull(web, s.URL+q.Path(), "", content, func(r io.Reader) ([]byte, error) {
				var one [1]byte
				if _, err := io.ReadFull(r, one[:]); err != nil {
					return nil, err
				}
				first[i] = time.Now()
				rest, err := io.ReadAll(r)
				end[i] = time.Now()
				return append(one[:], rest...), err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	slices.SortFunc(first[:], time.Time.Compare)
	slices.SortFunc(end[:], time.Time.Compare)
	firstByte := first[clients-1].Sub(time.Unix(0, available.Load()))
	p99 := end[clients*99/100-1].Sub(time.Unix(0, ended.Load()))
	t.Logf("worst first byte %v after it was available, p99 end %v after the upstream's", firstByte, p99)
	if firstByte > 500*time.Millisecond || p99 > 3*time.Second {
		t.Errorf("worst first byte %v, p99 end %v", firstByte, p99)
	}
	if n := c.fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

// stamped records the time of the last write.
type stamped struct {
	io.Writer
	at *atomic.Int64
}

func (s stamped) Write(p []byte) (int, error) {
	s.at.Store(time.Now().UnixNano())
	return s.Writer.Write(p)
}

// slowly returns a function that reads rate bytes per second.
func slowly(rate int) func(io.Reader) ([]byte, error) {
	return func(r io.Reader) (body []byte, err error) {
		const piece = 64 * kib
		buffer := make([]byte, piece)
		for err == nil {
			var n int
			n, err = io.ReadFull(r, buffer)
			body = append(body, buffer[:n]...)
			time.Sleep(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return body, err
	}
}

// TestSlowReadersInASmallStore has more content in use than fits into the store.
func TestSlowReadersInASmallStore(t *testing.T) {
	const fills, size = 8, 14 * mib
	c := newCache(t, nil)
	s, web := c.listen(), client(t, true)
	var all sync.WaitGroup
	for range fills {
		content := testutil.RandomBytes(size)
		q := blob("a/b", c.add(content))
		for range 2 {
			all.Go(func() {
				if err := pull(web, s.URL+q.Path(), "", content, slowly(8*mib)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	st := c.disk.Stats()
	t.Logf("%d fetches, %d through windows, peak %d MiB", c.fetches.Load(), st.Windows, st.PeakBytes/mib)
	if st.PeakBytes > store.MinLimit || st.SlowReaders > 0 {
		t.Errorf("%+v", st)
	}
	if st.Windows == 0 {
		t.Error("the store had room for all: this test shows nothing")
	}
}

// TestBigBlob requests a blob that is nearly as large as the store, or larger, with many clients and ranges. It is
// fetched once.
func TestBigBlob(t *testing.T) {
	for _, size := range []int{60 * mib, 70 * mib} {
		t.Run(fmt.Sprint(size/mib), func(t *testing.T) {
			const whole, ranges = 2, 30
			c := newCache(t, nil)
			content := testutil.RandomBytes(size)
			q := blob("a/b", c.add(content))
			begin := make(chan struct{})
			c.script = func(_ context.Context, _ route.Request, s *sink) error {
				<-begin
				for rest := range slices.Chunk(s.content, 32*kib) {
					if _, err := s.Write(rest); err != nil {
						return err
					}
				}
				return nil
			}
			s, web := c.listen(), client(t, false)
			var all sync.WaitGroup
			for i := range whole + ranges {
				all.Go(func() {
					want, header := content, ""
					if i >= whole {
						from := rand.IntN(size - 64*kib)
						want, header = content[from:from+64*kib], fmt.Sprintf("bytes=%d-%d", from, from+64*kib-1)
					}
					if err := pull(web, s.URL+q.Path(), header, want, io.ReadAll); err != nil {
						t.Error(err)
					}
				})
			}
			testutil.Eventually(t, "all ask", func() bool { return c.disk.Stats().OpenReaders == whole+ranges+1 }) // and the fill itself
			close(begin)
			all.Wait()
			if n := c.fetches.Load(); n != 1 {
				t.Errorf("%d fetches", n)
			}
			if st := c.disk.Stats(); st.PeakBytes > store.MinLimit || (st.Windows > 0) != (size > store.MinLimit) {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestLateForAWindow requests a blob without room whose beginning is gone. It causes a second fetch, and the first one
// continues.
func TestLateForAWindow(t *testing.T) {
	const size = 66 * mib
	c := newCache(t, nil)
	content := testutil.RandomBytes(size)
	q := blob("a/b", c.add(content))
	reached, half := make(chan struct{}), make(chan struct{})
	c.script = func(_ context.Context, _ route.Request, s *sink) error {
		if c.fetches.Load() == 1 {
			if _, err := s.Write(s.content[:size/2]); err != nil {
				return err
			}
			close(reached)
			<-half
			_, err := s.Write(s.content[size/2:])
			return err
		}
		_, err := s.Write(s.content)
		return err
	}
	s, web := c.listen(), client(t, false)
	var all sync.WaitGroup
	get := func(what, header string, want []byte) {
		all.Go(func() {
			if err := pull(web, s.URL+q.Path(), header, want, io.ReadAll); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	get("early", "", content)
	<-reached
	get("range that is to come", fmt.Sprintf("bytes=%d-", size-100), content[size-100:])
	testutil.Eventually(t, "it joins", func() bool { return c.Handler.Stats().Shared == 1 })
	get("late", "", content)
	testutil.Eventually(t, "second fetch", func() bool { return c.fetches.Load() == 2 })
	close(half)
	all.Wait()
	if n := c.fetches.Load(); n != 2 {
		t.Errorf("%d fetches", n)
	}
}

// TestStalledClientDelaysNoOthers checks that a client that stops reading delays neither other clients nor the store.
func TestStalledClientDelaysNoOthers(t *testing.T) {
	c := newCache(t, nil)
	content := testutil.RandomBytes(30 * mib)
	q := blob("a/b", c.add(content))
	begin := make(chan struct{})
	c.script = func(_ context.Context, _ route.Request, s *sink) error {
		<-begin
		_, err := s.Write(s.content)
		return err
	}
	s := c.listen()
	slow, goOn := make(chan error), make(chan struct{})
	go func() {
		slow <- pull(client(t, true), s.URL+q.Path(), "", content, func(r io.Reader) ([]byte, error) {
			<-goOn
			return io.ReadAll(r)
		})
	}()
	testutil.Eventually(t, "the fetch", func() bool { return c.fetches.Load() == 1 })
	close(begin)
	web := client(t, false)
	for range 3 {
		if err := pull(web, s.URL+q.Path(), "", content, io.ReadAll); err != nil {
			t.Error(err)
		}
	}
	testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
	close(goOn)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	if n := c.fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

// TestCutConnection checks that a client of a fill that fails in the middle, or has wrong bytes, never sees the end of
// the body, with or without Content-Length. It can resume with a Range request.
func TestCutConnection(t *testing.T) {
	for _, sized := range []bool{true, false} {
		c := newCache(t, nil)
		c.unsized = !sized
		content := testutil.RandomBytes(mib)
		q := blob("a/b", c.add(content))
		begun := make(chan struct{})
		c.script = func(_ context.Context, _ route.Request, s *sink) error {
			_, _ = s.Write(s.content[:mib/2])
			<-begun
			return fmt.Errorf("the upstream was cut: %w", io.ErrUnexpectedEOF)
		}
		s, web := c.listen(), client(t, false)
		var got []byte
		err := pull(web, s.URL+q.Path(), "", content, func(r io.Reader) (body []byte, err error) {
			got = make([]byte, 1, mib)
			_, err = io.ReadFull(r, got)
			close(begun)
			if err == nil {
				body, err = io.ReadAll(r)
				got = append(got, body...)
			}
			return got, err
		})
		if !errors.Is(err, io.ErrUnexpectedEOF) || len(got) > mib/2 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
		c.script, c.unsized = nil, false
		from := mib/2 - 1000
		if err := pull(web, s.URL+q.Path(), fmt.Sprintf("bytes=%d-", from), content[from:], io.ReadAll); err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkSmall serves 2 KiB from memory.
func BenchmarkSmall(b *testing.B) {
	c := newCache(b, nil)
	q := blob("a/b", c.add(testutil.RandomBytes(2*kib)))
	c.get(q)
	testutil.Eventually(b, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
	r, err := http.NewRequest(http.MethodGet, q.Path(), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c.Serve(&null{header: http.Header{}}, r, q)
	}
}

// null is a response that discards everything.
type null struct{ header http.Header }

func (n *null) Header() http.Header         { return n.header }
func (n *null) WriteHeader(int)             {}
func (n *null) Write(p []byte) (int, error) { return len(p), nil }
