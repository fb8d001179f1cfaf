// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestErrorIsShared checks that an error is returned to identical requests for two seconds, and to no others.
func TestErrorIsShared(t *testing.T) {
	for _, share := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newCache(t, func(o *Options) { o.Share = share })
			content := testutil.RandomBytes(2 * kib)
			d := c.add(content)
			c.script = func(ctx context.Context, q route.Request, s *sink) error {
				if err := pause(ctx, time.Second); err != nil {
					return err
				}
				if q.Repository == "without" {
					return &route.StatusError{Status: 403, Code: "DENIED", Message: "not for you"}
				}
				_, err := s.Write(s.content)
				return err
			}
			var clients sync.WaitGroup
			for range 10 {
				clients.Go(func() {
					if a := c.get(blob("without", d)); a.status != 403 || !strings.Contains(string(a.body), "not for you") {
						t.Errorf("%d %s", a.status, a.body)
					}
				})
			}
			synctest.Wait()
			clients.Go(func() { wantBlob(t, "other repository, at the same time", c.get(blob("with", d)), content) })
			clients.Wait()
			if n := c.fetches.Load(); n != 2 {
				t.Errorf("%d fetches", n)
			}
			if share {
				// A blob from the other repository is served to both.
				synctest.Wait()
				wantBlob(t, "shared", c.get(blob("without", d)), content)
				return
			}
			time.Sleep(900 * time.Millisecond)
			if a := c.get(blob("without", d)); a.status != 403 || c.fetches.Load() != 2 {
				t.Errorf("within the time: %d, %d fetches", a.status, c.fetches.Load())
			}
			if a := c.get(blob("without", digest.FromString("x"))); a.status != 403 || c.fetches.Load() != 3 {
				t.Errorf("another blob: %d, %d fetches", a.status, c.fetches.Load())
			}
			time.Sleep(1200 * time.Millisecond)
			if a := c.get(blob("without", d)); a.status != 403 || c.fetches.Load() != 4 {
				t.Errorf("after the time: %d, %d fetches", a.status, c.fetches.Load())
			}
		})
	}
}

// TestSlowUpstream uses an upstream that starts to respond later than a client waits. The blob arrives with one fetch.
func TestSlowUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, func(o *Options) { o.Wait = 5 * time.Second })
		content := testutil.RandomBytes(mib)
		q := blob("a/b", c.add(content))
		c.script = func(ctx context.Context, _ route.Request, s *sink) error {
			if err := pause(ctx, 9*time.Second); err != nil {
				return err
			}
			return paced(ctx, s, 256*kib, time.Second)
		}
		impatient, gone := context.WithTimeout(t.Context(), 2*time.Second)
		defer gone()
		if a := c.ask(impatient, http.MethodGet, q); !a.cut || len(a.body) > 0 {
			t.Errorf("a client that has disconnected: %d with %d bytes, cut: %v", a.status, len(a.body), a.cut)
		}
		begin := time.Now()
		a := c.get(q)
		if took := time.Since(begin); a.status != 504 || a.header.Get("Retry-After") == "" || took != 5*time.Second {
			t.Errorf("%d after %v, retry after %q", a.status, took, a.header.Get("Retry-After"))
		}
		if st := c.Handler.Stats(); st.Abandoned != 1 {
			t.Errorf("%+v", st)
		}
		wantBlob(t, "the second try", c.get(q), content)
		time.Sleep(10 * time.Second)
		wantBlob(t, "the store", c.get(q), content)
		if n := c.fetches.Load(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

// TestClientLeavesInTheMiddle checks that a blob is stored although its client has disconnected.
func TestClientLeavesInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, nil)
		content := testutil.RandomBytes(10 * mib)
		q := blob("a/b", c.add(content))
		c.script = func(ctx context.Context, _ route.Request, s *sink) error { return paced(ctx, s, mib, time.Second) }
		for _, head := range [][]string{nil, {"Range", "bytes=0-9,8000000-"}} {
			ctx, leave := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			if a := c.ask(ctx, http.MethodGet, q, head...); !a.cut || a.status/100 != 2 {
				t.Errorf("%d with %d bytes, cut: %v", a.status, len(a.body), a.cut)
			}
			leave()
		}
		time.Sleep(10 * time.Second)
		if st := c.Handler.Stats(); st.Running != 0 || st.Failed != 0 {
			t.Errorf("%+v", st)
		}
		wantBlob(t, "the store", c.get(q), content)
		if n := c.fetches.Load(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

// TestAbandonedFillsAreLimited checks that the first fills without clients continue to their end, and others are aborted.
func TestAbandonedFillsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, func(o *Options) { o.Abandoned = 2 })
		c.script = func(ctx context.Context, _ route.Request, s *sink) error { return paced(ctx, s, 100*kib, time.Second) }
		var all []route.Request
		for range 5 {
			all = append(all, blob("a/b", c.add(testutil.RandomBytes(mib))))
		}
		visit := func(q route.Request, d time.Duration) {
			ctx, leave := context.WithTimeout(t.Context(), d)
			defer leave()
			c.ask(ctx, http.MethodGet, q)
			synctest.Wait()
		}
		for _, q := range all[:4] {
			visit(q, time.Second)
		}
		if st := c.Handler.Stats(); st.Abandoned != 2 || st.Running != 2 || st.Failed != 2 {
			t.Errorf("%+v", st)
		}
		// A client that returns frees the fill's place for another one. When it leaves again, the fill gets a place
		// only if there is one.
		var clients sync.WaitGroup
		clients.Go(func() { visit(all[0], 2*time.Second) })
		synctest.Wait()
		if st := c.Handler.Stats(); st.Abandoned != 1 || st.Running != 2 {
			t.Errorf("%+v", st)
		}
		visit(all[4], time.Second)
		clients.Wait()
		if st := c.Handler.Stats(); st.Abandoned != 2 || st.Running != 2 || st.Failed != 3 {
			t.Errorf("%+v", st)
		}
		time.Sleep(20 * time.Second)
		before := c.fetches.Load()
		for _, i := range []int{1, 4} {
			c.get(all[i])
		}
		if c.fetches.Load() != before {
			t.Error("an abandoned fill is not stored")
		}
		// A fill that is aborted for lack of a place causes no error for later clients.
		visit(all[2], time.Second)
		if n := c.fetches.Load(); n != before+1 {
			t.Errorf("%d fetches, want %d", n, before+1)
		}
	})
}

// TestStall checks that a fill ends after silence, and has no total time limit.
func TestStall(t *testing.T) {
	for _, obeys := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			defer close(release)
			c := newCache(t, func(o *Options) { o.Stall, o.Wait = 20*time.Second, 0 })
			content := testutil.RandomBytes(mib)
			silent, slow := blob("a/b", c.add(content)), blob("a/b", c.add(testutil.RandomBytes(2*mib)))
			silence := func(ctx context.Context) error {
				if !obeys {
					<-release
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}
			c.script = func(ctx context.Context, q route.Request, s *sink) error {
				if q == slow {
					return paced(ctx, s, 200*kib, 15*time.Second)
				}
				return silence(ctx)
			}
			begin := time.Now()
			a := c.get(silent)
			limit := 23 * time.Second
			if !obeys {
				limit += fetchGrace
			}
			if took := time.Since(begin); a.status != 504 || took < 20*time.Second || took > limit {
				t.Errorf("silent from the beginning: %d after %v", a.status, took)
			}
			time.Sleep(3 * time.Second) // its error is forgotten
			c.script = func(ctx context.Context, q route.Request, s *sink) error {
				_, _ = s.Write(s.content[:mib/2])
				return silence(ctx)
			}
			if a := c.get(silent); a.status != 200 || !a.cut || len(a.body) != mib/2 {
				t.Errorf("silent in the middle: %d with %d bytes, cut: %v", a.status, len(a.body), a.cut)
			}
			c.script = func(ctx context.Context, q route.Request, s *sink) error {
				return paced(ctx, s, 200*kib, 15*time.Second)
			}
			if a := c.get(slow); a.cut || len(a.body) != 2*mib {
				t.Errorf("slow: %d with %d bytes, cut: %v", a.status, len(a.body), a.cut)
			}
			if st := c.Handler.Stats(); st.Stalled != 2 || st.Failed != 2 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestWrongContent checks that wrong content never arrives completely, and small content not at all.
func TestWrongContent(t *testing.T) {
	for _, sized := range []bool{true, false} {
		for _, size := range []int{2, 400, 100 * kib, mib} {
			for name, wrong := range map[string]func([]byte) []byte{
				"other byte": func(b []byte) []byte { b[len(b)-1]++; return b },
				"short":      func(b []byte) []byte { return b[:len(b)-1] },
				"long":       func(b []byte) []byte { return append(b, 0) },
			} {
				c := newCache(t, nil)
				c.unsized = !sized
				content := testutil.RandomBytes(size)
				q := blob("a/b", c.add(content))
				body := wrong(bytes.Clone(content))
				c.script = func(_ context.Context, _ route.Request, s *sink) error {
					third := len(body) / 3
					if _, err := s.Write(body[:third]); err != nil {
						return err
					}
					_, err := s.Write(body[third:])
					return err
				}
				const times = 2
				for range times {
					a := c.get(q)
					switch {
					case a.status == 502 && !a.cut && strings.Contains(string(a.body), "UNAVAILABLE"):
					case a.status == 200 && a.cut && size > 512 && len(a.body) <= max(size, len(body))-512 && bytes.HasPrefix(content, a.body):
					default:
						t.Errorf("%s of %d, sized %v: %d with %d bytes, cut: %v", name, size, sized, a.status, len(a.body), a.cut)
					}
					testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
				}
				c.script = nil
				a := c.get(q)
				if name == "short" && sized { // a client that was cut may resume
					wantBlob(t, "after a short one", a, content)
				} else if a.status != 502 || c.fetches.Load() != times {
					t.Errorf("%s of %d, sized %v: then %d, %d fetches", name, size, sized, a.status, c.fetches.Load())
				}
				c.close()
			}
		}
	}
}

// TestWrongContentOnce checks that content that was wrong once is fetched again for the next client.
func TestWrongContentOnce(t *testing.T) {
	c := newCache(t, nil)
	content := testutil.RandomBytes(mib)
	q := blob("a/b", c.add(content))
	c.script = func(_ context.Context, _ route.Request, s *sink) error {
		if c.fetches.Load() > 1 { // a client that had received nothing was retried within its request
			_, err := s.Write(content)
			return err
		}
		_, err := s.Write(append(bytes.Clone(content[1:]), 0))
		return err
	}
	if a := c.get(q); a.status == 200 && !a.cut && !bytes.Equal(a.body, content) {
		t.Errorf("%d with %d bytes", a.status, len(a.body))
	}
	testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
	wantBlob(t, "at once", c.get(q), content)
	if n := c.fetches.Load(); n != 2 {
		t.Errorf("%d fetches", n)
	}
}

// TestFetcherMisbehaves uses a Fetcher that panics or wrongly reports success.
func TestFetcherMisbehaves(t *testing.T) {
	for name, script := range map[string]func(*sink) error{
		"panic":              func(*sink) error { panic("out of order") },
		"abort":              func(*sink) error { panic(http.ErrAbortHandler) },
		"nothing":            func(*sink) error { return nil },
		"panic in the midst": func(s *sink) error { _, _ = s.Write(s.content[:mib/2]); panic(http.ErrAbortHandler) },
		"any error":          func(*sink) error { return errors.New("secret detail") },
	} {
		c := newCache(t, nil)
		q := blob("a/b", c.add(testutil.RandomBytes(mib)))
		c.script = func(_ context.Context, _ route.Request, s *sink) error { return script(s) }
		a := c.get(q)
		if strings.Contains(string(a.body), "secret") {
			t.Errorf("%s: %s", name, a.body)
		}
		if a.status != 502 && !(a.status == 200 && a.cut && len(a.body) <= mib/2) {
			t.Errorf("%s: %d with %d bytes, cut: %v", name, a.status, len(a.body), a.cut)
		}
	}
}

// TestTimeout checks that a timeout of the upstream becomes a 504.
func TestTimeout(t *testing.T) {
	c := newCache(t, nil)
	c.script = func(context.Context, route.Request, *sink) error {
		return fmt.Errorf("dial: %w", context.DeadlineExceeded)
	}
	if a := c.get(blob("a/b", digest.FromString("x"))); a.status != 504 {
		t.Error(a.status)
	}
}

// later is an error like those of package upstream.
type later struct{ route.StatusError }

func (e *later) Unwrap() error       { return &e.StatusError }
func (e *later) Header() http.Header { return http.Header{"Retry-After": {"17"}} }

// TestRetryAfter checks that the upstream's Retry-After is sent to the client.
func TestRetryAfter(t *testing.T) {
	c := newCache(t, nil)
	c.script = func(context.Context, route.Request, *sink) error {
		return fmt.Errorf("a fetch: %w", &later{route.StatusError{Status: 429, Code: "TOOMANYREQUESTS", Message: "later"}})
	}
	for range 2 { // from the fill, from memory
		a := c.get(blob("a/b", digest.FromString("x")))
		if a.status != 429 || a.header.Get("Retry-After") != "17" || !strings.Contains(string(a.body), "later") {
			t.Errorf("%d %v %s", a.status, a.header, a.body)
		}
	}
}

// TestStoredByAnotherFetch checks a fetch that finds the blob in the store because another fetch has just stored it.
func TestStoredByAnotherFetch(t *testing.T) {
	c := newCache(t, nil)
	content := testutil.RandomBytes(mib)
	q := blob("a/b", c.add(content))
	inner := &emulator{store: c.emulator.store, blobs: map[digest.Digest][]byte{q.Digest: content}}
	c.opts.Fetcher = fetcher(func(ctx context.Context, q route.Request, _ *store.Growing) error {
		other := c.emulator.store.Grow(q.Digest, -1)
		defer other.Close()
		return inner.Fetch(ctx, q, other)
	})
	wantBlob(t, "blob", c.get(q), content)
	if st := c.Handler.Stats(); st.Failed != 0 || st.Fetches != 1 {
		t.Errorf("%+v", st)
	}
}

type fetcher func(context.Context, route.Request, *store.Growing) error

func (f fetcher) Fetch(ctx context.Context, q route.Request, g *store.Growing) error {
	return f(ctx, q, g)
}

// TestClose checks that running fills end and later requests get an error.
func TestClose(t *testing.T) {
	c := newCache(t, nil)
	q := blob("a/b", c.add(testutil.RandomBytes(mib)))
	c.script = func(ctx context.Context, _ route.Request, s *sink) error { return paced(ctx, s, 1, time.Hour) }
	ended := make(chan answer)
	go func() { ended <- c.get(q) }()
	testutil.Eventually(t, "the fetch", func() bool { return c.fetches.Load() == 1 })
	c.Handler.Close()
	if a := <-ended; a.status != 503 && !a.cut {
		t.Errorf("%d with %d bytes, cut: %v", a.status, len(a.body), a.cut)
	}
	if a := c.get(q); a.status != 503 {
		t.Errorf("%d with %d bytes, cut: %v", a.status, len(a.body), a.cut)
	}
	if c.fetches.Load() != 1 {
		t.Error("fetched after the close")
	}
}

// TestTwoUpstreams checks that upstreams with the same store do not share content or errors.
func TestTwoUpstreams(t *testing.T) {
	c := newCache(t, func(o *Options) { o.Share = true })
	u, err := c.disk.Upstream("two")
	if err != nil {
		t.Fatal(err)
	}
	other := &emulator{store: u, blobs: map[digest.Digest][]byte{}}
	o := c.opts
	o.Store, o.Fetcher = u, other
	second := &cache{Handler: New(o), emulator: other, t: t}
	defer second.Handler.Close()
	content := testutil.RandomBytes(mib)
	q := blob("a/b", other.add(content))
	if a := c.get(q); a.status != 404 {
		t.Errorf("the first: %d", a.status)
	}
	wantBlob(t, "the second", second.get(q), content)
	if a := c.get(q); a.status != 404 {
		t.Errorf("the first has the second's: %d", a.status)
	}
}

// TestStoredMeanwhile checks a client that has looked in the store just before the fill ended.
func TestStoredMeanwhile(t *testing.T) {
	for _, share := range []bool{true, false} {
		c := newCache(t, func(o *Options) { o.Share = share })
		q := blob("a/b", c.add(testutil.RandomBytes(mib)))
		c.get(q)
		testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
		if f, first, err := c.join(q, false); f != nil || first || err != nil {
			t.Errorf("%v, %v, %v", f, first, err)
		}
	}
}

// TestAbortedFillIsNotJoined sends a new request while the fetch of a client that has left is still ending.
func TestAbortedFillIsNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, func(o *Options) { o.Abandoned = 0 })
		content := testutil.RandomBytes(mib)
		q := blob("a/b", c.add(content))
		c.script = func(ctx context.Context, _ route.Request, s *sink) error {
			if c.fetches.Load() == 1 {
				<-ctx.Done()
				time.Sleep(time.Second)
				return ctx.Err()
			}
			_, err := s.Write(s.content)
			return err
		}
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		c.ask(ctx, http.MethodGet, q)
		wantBlob(t, "asked again", c.get(q), content)
		if n := c.fetches.Load(); n != 2 {
			t.Errorf("%d fetches", n)
		}
	})
}

// TestAbortIsNotShared checks that an aborted fill causes no error for later clients.
func TestAbortIsNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, func(o *Options) { o.Abandoned = 0 })
		content := testutil.RandomBytes(mib)
		q := blob("a/b", c.add(content))
		c.script = func(ctx context.Context, _ route.Request, s *sink) error {
			<-ctx.Done()
			return ctx.Err()
		}
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		c.ask(ctx, http.MethodGet, q)
		synctest.Wait()
		c.script = nil
		wantBlob(t, "asked again", c.get(q), content)
	})
}

// TestFillWithoutRoomAndClients checks that a fill without room and clients ends, whether it runs out of room before or
// after its clients have left.
func TestFillWithoutRoomAndClients(t *testing.T) {
	content := testutil.RandomBytes(66 * mib)
	for _, before := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := newCache(t, nil)
			q := blob("a/b", c.add(content))
			c.script = func(ctx context.Context, _ route.Request, s *sink) error {
				if !before {
					if err := pause(ctx, 2*time.Second); err != nil {
						return err
					}
				}
				if _, err := s.Write(s.content[:33*mib]); err != nil {
					return err
				}
				if err := pause(ctx, time.Minute); err != nil {
					return err
				}
				_, err := s.Write(s.content[33*mib:])
				return err
			}
			ctx, leave := context.WithTimeout(t.Context(), time.Second)
			defer leave()
			c.ask(ctx, http.MethodGet, q)
			synctest.Wait()
			if st := c.Handler.Stats(); before != (st.Running == 0) {
				t.Errorf("before %v: %+v", before, st)
			}
			time.Sleep(12 * time.Second)
			if st := c.Handler.Stats(); st.Running != 0 || c.disk.Stats().Windows != 1 {
				t.Errorf("before %v: %+v", before, st)
			}
		})
	}
}

// TestSlowReadersAreNoStall delays a fill without room for longer than the upstream may be silent.
func TestSlowReadersAreNoStall(t *testing.T) {
	content := testutil.RandomBytes(66 * mib)
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, func(o *Options) { o.Stall = 2 * time.Second })
		q := blob("a/b", c.add(content))
		w := &haltingWriter{ResponseWriter: httptest.NewRecorder(), at: 40 * mib, halt: 8 * time.Second}
		c.Serve(w, httptest.NewRequest(http.MethodGet, q.Path(), nil), q)
		if w.sent != len(content) || c.disk.Stats().Windows != 1 {
			t.Errorf("%d bytes of %d, %+v", w.sent, len(content), c.disk.Stats())
		}
	})
}

// TestRangesOutOfOrderWithoutRoom checks that such ranges are answered with the whole blob: the bytes of the second
// range would be gone after the first. The beginning is kept for a client that is slow to receive the header.
func TestRangesOutOfOrderWithoutRoom(t *testing.T) {
	content := testutil.RandomBytes(66 * mib)
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, nil)
		q := blob("a/b", c.add(content))
		r := httptest.NewRequest(http.MethodGet, q.Path(), nil)
		r.Header.Set("Range", "bytes=60000000-60000009,0-9")
		w := &haltingWriter{ResponseWriter: httptest.NewRecorder(), header: 8 * time.Second}
		c.Serve(w, r, q)
		if w.status != http.StatusOK || w.sent != len(content) || c.disk.Stats().Windows != 1 {
			t.Errorf("%d with %d bytes of %d, %+v", w.status, w.sent, len(content), c.disk.Stats())
		}
	})
}

// haltingWriter is a client that stops receiving for some time, at the header or in the middle.
type haltingWriter struct {
	http.ResponseWriter
	status, sent, at int
	header, halt     time.Duration
}

func (w *haltingWriter) WriteHeader(status int) {
	w.status = status
	time.Sleep(w.header)
}

func (w *haltingWriter) Write(p []byte) (int, error) {
	if w.sent < w.at && w.sent+len(p) >= w.at {
		time.Sleep(w.halt)
	}
	w.sent += len(p)
	return len(p), nil
}
