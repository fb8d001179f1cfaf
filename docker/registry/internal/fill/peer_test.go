// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// elsewhere is a Fetcher whose behavior a test sets.
type elsewhere struct {
	fetches atomic.Int64
	fetch   func(context.Context, route.Request, *store.Growing) error
}

func (e *elsewhere) Fetch(ctx context.Context, q route.Request, g *store.Growing) error {
	e.fetches.Add(1)
	return e.fetch(ctx, q, g)
}

// newNext returns a cache whose handler is Options.Next of another one, which uses e.
func newNext(t *testing.T, mine bool, e *elsewhere) (*cache, *Handler) {
	t.Helper()
	c := newCache(t, nil)
	o := c.opts
	o.Fetcher, o.Next, o.Pass, o.Wait = e, c.Handler, func(route.Request) bool { return mine }, patience
	first := New(o)
	t.Cleanup(first.Close)
	return c, first
}

func serveBy(h *Handler, q route.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.Serve(w, httptest.NewRequest(http.MethodGet, q.Path(), nil), q)
	return w
}

func TestNext(t *testing.T) {
	content := testutil.RandomBytes(100 * kib)
	brings := func(_ context.Context, _ route.Request, g *store.Growing) error {
		g.SetSize(int64(len(content)))
		_, err := g.Write(content)
		return err
	}
	for name, test := range map[string]struct {
		mine          bool
		own           error // error of Next
		fetch         func(context.Context, route.Request, *store.Growing) error
		status        int
		fetches, owns int64
	}{
		"another brings it":       {false, nil, brings, 200, 1, 0},
		"it is this replica's":    {true, nil, nil, 200, 0, 1},
		"nobody else can":         {false, nil, func(context.Context, route.Request, *store.Growing) error { return ErrNext }, 200, 1, 1},
		"the own upstream is out": {true, &route.StatusError{Status: 503}, brings, 200, 1, 1},
		"it is nowhere":           {true, unknown, brings, 404, 0, 1},
		"all are out":             {true, &route.StatusError{Status: 503}, func(context.Context, route.Request, *store.Growing) error { return ErrNext }, 503, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			e := &elsewhere{fetch: test.fetch}
			c, first := newNext(t, test.mine, e)
			c.add(content)
			if test.own != nil {
				c.script = func(context.Context, route.Request, *sink) error { return test.own }
			}
			q := blob("a", digest.FromBytes(content))
			w := serveBy(first, q)
			if w.Code != test.status || w.Code == 200 && !bytes.Equal(w.Body.Bytes(), content) {
				t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
			}
			if e.fetches.Load() != test.fetches || c.fetches.Load() != test.owns {
				t.Errorf("%d fetches elsewhere, %d own ones", e.fetches.Load(), c.fetches.Load())
			}
			if fails := c.FailedRecently(q); fails != (test.own != nil) {
				t.Errorf("fails: %v", fails)
			}
		})
	}
}

// TestAgain checks that ErrAgain starts another fill for clients that have received nothing.
func TestAgain(t *testing.T) {
	c := newCache(t, nil)
	content := testutil.RandomBytes(100 * kib)
	d := c.add(content)
	var tries atomic.Int64
	c.script = func(_ context.Context, _ route.Request, s *sink) error {
		if tries.Add(1) == 1 {
			return ErrAgain
		}
		_, err := s.Write(content)
		return err
	}
	wantBlob(t, "again", c.get(blob("a", d)), content)
}

// TestKnownToBeWrong checks that no client joins a fill whose bytes are known to be wrong, but which has not ended yet.
func TestKnownToBeWrong(t *testing.T) {
	c := newCache(t, nil)
	content := testutil.RandomBytes(100 * kib)
	bad := bytes.Clone(content)
	bad[10] ^= 1
	failed, end, begun := make(chan struct{}), make(chan struct{}), false
	e := &elsewhere{fetch: func(_ context.Context, _ route.Request, g *store.Growing) error {
		if begun {
			_, err := g.Write(content)
			g.Finish(nil)
			return err
		}
		begun = true
		g.SetSize(int64(len(bad)))
		_, _ = g.Write(bad)
		close(failed)
		<-end
		return ErrAgain
	}}
	o := c.opts
	o.Fetcher = e
	h := New(o)
	t.Cleanup(h.Close)
	q := blob("a", digest.FromBytes(content))
	ask := func() (w *httptest.ResponseRecorder) {
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				panic(p)
			}
		}()
		w = httptest.NewRecorder()
		h.Serve(w, httptest.NewRequest(http.MethodGet, q.Path(), nil), q)
		return w
	}
	first := make(chan struct{})
	go func() {
		defer close(first)
		ask() // it has received a part, or nothing yet
	}()
	<-failed
	time.AfterFunc(100*time.Millisecond, func() { close(end) })
	if w := ask(); w == nil || !bytes.Equal(w.Body.Bytes(), content) {
		t.Error("it was cut")
	}
	<-first
}

// TestServePeer checks that ServePeer waits until the fill ends, and marks stored content.
func TestServePeer(t *testing.T) {
	c := newCache(t, func(o *Options) { o.Wait = 10 * time.Millisecond })
	content := testutil.RandomBytes(100 * kib)
	d := c.add(content)
	c.script = func(ctx context.Context, _ route.Request, s *sink) error {
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
		_, err := s.Write(content)
		return err
	}
	q := blob("a", d)
	ask := func(serve func(http.ResponseWriter, *http.Request, route.Request)) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		serve(w, httptest.NewRequest(http.MethodGet, q.Path(), nil), q)
		return w
	}
	if w := ask(func(w http.ResponseWriter, r *http.Request, q route.Request) {
		if c.ServeStored(w, r, q) {
			t.Error("it is not stored yet")
		}
	}); peer.Stored(w.Header()) {
		t.Error("nothing is marked as stored")
	}
	if w := ask(c.ServePeer); w.Code != 200 || !bytes.Equal(w.Body.Bytes(), content) || peer.Stored(w.Header()) {
		t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
	}
	testutil.Eventually(t, "it is stored", func() bool { return c.Stats().Running == 0 })
	if w := ask(c.ServePeer); w.Code != 200 || !peer.Stored(w.Header()) {
		t.Errorf("%d, stored: %v", w.Code, peer.Stored(w.Header()))
	}
	if !othersMayHave(errors.New("lost")) || othersMayHave(unknown) || othersMayHave(errWaitTimeout) {
		t.Error("what may be elsewhere")
	}
}
