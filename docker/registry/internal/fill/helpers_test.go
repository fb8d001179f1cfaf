// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	kib = 1 << 10
	mib = 1 << 20
	// patience is how long a test waits for an expected event.
	patience = 20 * time.Second
)

// emulator is a Fetcher that stores blobs like distribution.
type emulator struct {
	store   *store.Upstream
	fetches atomic.Int64

	unsized bool // sizes are not announced

	mu     sync.Mutex
	blobs  map[digest.Digest][]byte
	script func(context.Context, route.Request, *sink) error // nil: the whole blob at once
}

// sink is the destination to which a script writes a blob.
type sink struct {
	io.Writer
	content []byte // of the upstream
}

func (e *emulator) add(content []byte) digest.Digest {
	d := digest.FromBytes(content)
	e.put(d, content)
	return d
}

func (e *emulator) put(d digest.Digest, content []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.blobs[d] = content
}

var unknown = &route.StatusError{Status: http.StatusNotFound, Code: "BLOB_UNKNOWN", Message: "the upstream has no such blob"}

func (e *emulator) Fetch(ctx context.Context, q route.Request, g *store.Growing) (err error) {
	e.fetches.Add(1)
	e.mu.Lock()
	content, script := e.blobs[q.Digest], e.script
	e.mu.Unlock()
	if content != nil && !e.unsized {
		g.SetSize(int64(len(content)))
	}
	if script == nil {
		script = func(_ context.Context, _ route.Request, s *sink) error {
			if s.content == nil {
				return unknown
			}
			_, err := s.Write(s.content)
			return err
		}
	}
	const root = "/docker/registry/v2/"
	at := fmt.Sprintf("%srepositories/%s/_uploads/%d", root, q.Repository, e.fetches.Load())
	w, err := e.store.Writer(store.WithGrowing(ctx, g), at+"/data", false)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = w.Cancel(ctx)
		}
		_ = e.store.Delete(ctx, at)
	}()
	if err := script(ctx, q, &sink{w, content}); err != nil {
		return err
	}
	if err := w.Commit(ctx); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	under := digest.FromBytes(content) // distribution's name for it
	hex := under.Encoded()
	if err := e.store.Move(ctx, at+"/data", root+"blobs/sha256/"+hex[:2]+"/"+hex+"/data"); err != nil {
		return err
	}
	link := root + "repositories/" + q.Repository + "/_layers/" + string(q.Digest.Algorithm()) + "/" + q.Digest.Encoded() + "/link"
	return e.store.PutContent(ctx, link, []byte(under))
}

// paced writes a blob in pieces, one per interval.
func paced(ctx context.Context, s *sink, piece int, every time.Duration) error {
	for rest := s.content; len(rest) > 0; {
		k := min(len(rest), piece)
		if _, err := s.Write(rest[:k]); err != nil {
			return err
		}
		rest = rest[k:]
		if err := pause(ctx, every); err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// cache is a handler under test.
type cache struct {
	*Handler
	*emulator
	t     testing.TB
	disk  *store.Store
	root  string
	begun atomic.Int64 // responses whose header has been written
}

func newCache(t testing.TB, change func(*Options)) *cache { return openCache(t, t.TempDir(), change) }

func openCache(t testing.TB, root string, change func(*Options)) *cache {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	disk, err := store.New(store.Options{Path: root, Limit: store.MinLimit, ScrubRate: -1, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	u, err := disk.Upstream("one")
	if err != nil {
		t.Fatal(err)
	}
	e := &emulator{store: u, blobs: map[digest.Digest][]byte{}}
	c := &cache{emulator: e, t: t, disk: disk, root: root}
	o := Options{Store: u, Fetcher: e, Stall: time.Minute, Wait: 30 * time.Second, Abandoned: 16, Log: log}
	if change != nil {
		change(&o)
	}
	c.Handler = New(o)
	t.Cleanup(c.close)
	return c
}

// close closes the handler and the store. It can be called before the end of the test.
func (c *cache) close() {
	c.Handler.Close()
	if st := c.Handler.Stats(); st.Running != 0 || st.Abandoned != 0 {
		c.t.Errorf("left: %+v", st)
	}
	if c.disk == nil {
		return
	}
	testutil.Eventually(c.t, "readers are left", func() bool { return c.disk.Stats().OpenReaders == 0 })
	if left, err := os.ReadDir(filepath.Join(c.root, "tmp")); err != nil || len(left) > 0 {
		c.t.Errorf("files of fills are left: %v, %v", left, err)
	}
	if err := c.disk.Close(); err != nil {
		c.t.Error(err)
	}
	c.disk = nil
}

func blob(repository string, d digest.Digest) route.Request {
	return route.Request{Kind: route.Blob, Upstream: "one.example", Repository: repository, Digest: d}
}

// answer is a response as received by a client.
type answer struct {
	status int
	header http.Header
	body   []byte
	cut    bool
}

// ask calls the handler without a network. head lists names and values of header fields.
func (c *cache) ask(ctx context.Context, method string, q route.Request, head ...string) (a answer) {
	r := httptest.NewRequestWithContext(ctx, method, q.Path(), nil)
	for i := 0; i < len(head); i += 2 {
		r.Header.Set(head[i], head[i+1])
	}
	w := httptest.NewRecorder()
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				panic(p)
			}
			a.cut = true
		}
		a.status, a.header, a.body = w.Code, w.Header(), w.Body.Bytes()
	}()
	c.Serve(&counted{w, &c.begun}, r, q)
	return a
}

// counted counts responses when their header is written.
type counted struct {
	*httptest.ResponseRecorder
	begun *atomic.Int64
}

func (w *counted) WriteHeader(status int) {
	w.ResponseRecorder.WriteHeader(status)
	w.begun.Add(1)
}

func (c *cache) get(q route.Request, head ...string) answer {
	return c.ask(context.Background(), http.MethodGet, q, head...)
}

// listen serves the handler over HTTP.
func (c *cache) listen() *httptest.Server {
	table := route.New("one.example")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, refusal := table.Parse(r.URL)
		if refusal != nil {
			c.t.Error(refusal)
			return
		}
		c.Serve(w, r, q)
	}))
	c.t.Cleanup(s.Close)
	return s
}

// wantBlob checks that an answer has the whole blob.
func wantBlob(t testing.TB, what string, a answer, content []byte) {
	t.Helper()
	if a.status != http.StatusOK || a.cut || !bytes.Equal(a.body, content) {
		t.Errorf("%s: %d with %d bytes of %d, cut: %v", what, a.status, len(a.body), len(content), a.cut)
	}
}
