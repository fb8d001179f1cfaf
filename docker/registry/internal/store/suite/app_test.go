// SPDX-License-Identifier: GPL-3.0-or-later

package suite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/proxy"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"pullthrough.registry_cache/docker/registry/internal/store"
)

// registry is an upstream.
type registry struct {
	*httptest.Server
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	gets  atomic.Int64
}

func newRegistry(t *testing.T) *registry {
	r := &registry{blobs: map[digest.Digest][]byte{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		i := strings.LastIndexByte(q.URL.Path, '/')
		r.mu.Lock()
		body, ok := r.blobs[digest.Digest(q.URL.Path[i+1:])]
		r.mu.Unlock()
		switch {
		case q.URL.Path == "/v2/":
		case !ok:
			w.WriteHeader(http.StatusNotFound)
		default:
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			w.Header().Set("Docker-Content-Digest", digest.FromBytes(body).String())
			if strings.Contains(q.URL.Path, "/manifests/") {
				w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			}
			if q.Method == http.MethodGet {
				r.gets.Add(1)
				_, _ = w.Write(body)
			}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *registry) blob(size int) (digest.Digest, []byte) {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(rand.IntN(256)), byte(rand.IntN(256)), byte(rand.IntN(256))}).Read(b)
	return r.add(b), b
}

func (r *registry) add(b []byte) digest.Digest {
	d := digest.FromBytes(b)
	r.mu.Lock()
	r.blobs[d] = b
	r.mu.Unlock()
	return d
}

func newStore(t *testing.T, root string, limit int64) *store.Store {
	t.Helper()
	s, err := store.New(store.Options{Path: root, Limit: limit, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newApp(t *testing.T, s *store.Store, name, remote string) (*store.Upstream, http.Handler) {
	t.Helper()
	u, err := s.Upstream(name)
	if err != nil {
		t.Fatal(err)
	}
	never := time.Duration(0)
	c := &configuration.Configuration{Storage: u.Configuration(), Proxy: configuration.Proxy{RemoteURL: remote, TTL: &never}}
	c.Log.Level = "panic"
	c.Catalog.MaxEntries = 100
	app := handlers.NewApp(context.Background(), c)
	t.Cleanup(func() { _ = app.Shutdown() })
	return u, app
}

// fetch makes an app fetch a blob into g, and returns the bytes that a reader received.
func fetch(app http.Handler, g *store.Growing) ([]byte, error) {
	defer g.Close()
	r, err := g.NewReader(context.Background(), 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		q := httptest.NewRequest(http.MethodGet, "/v2/some/image/blobs/"+g.Digest().String(), nil)
		answer := httptest.NewRecorder()
		answer.Body = nil // discard the response of distribution
		app.ServeHTTP(answer, q.WithContext(store.WithGrowing(q.Context(), g)))
		g.Finish(errors.New("the app ended"))
	}()
	got, err := io.ReadAll(r)
	<-ended
	return got, err
}

// TestApps runs two apps of distribution in proxy mode on one store, which needs only the request's context.
func TestApps(t *testing.T) {
	logrus.SetOutput(io.Discard)
	one, two := newRegistry(t), newRegistry(t)
	root := t.TempDir()
	s := newStore(t, root, store.MinLimit)
	u1, app1 := newApp(t, s, "one", one.URL)
	u2, app2 := newApp(t, s, "two", two.URL)
	d, content := one.blob(5 << 20)
	two.add(content)
	for _, size := range []int64{int64(len(content)), -1} {
		got, err := fetch(app1, u1.Grow(d, size))
		if size < 0 {
			// The blob is already stored, so the app serves it without a writer. Package fill does not send such
			// requests.
			if err == nil {
				t.Error("bytes from nowhere")
			}
			continue
		}
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	if _, err := u2.Open(context.Background(), "some/image", d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the other upstream has it: %v", err)
	}
	if got, err := fetch(app2, u2.Grow(d, -1)); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	large, big := one.blob(70 << 20)
	if got, err := fetch(app1, u1.Grow(large, int64(len(big)))); err != nil || !bytes.Equal(got, big) {
		t.Errorf("without room: %d bytes, %v", len(got), err)
	}
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%d},"layers":[]}`, d, len(content))
	m := one.add([]byte(manifest))
	ask := func(app http.Handler, path string) *httptest.ResponseRecorder {
		q := httptest.NewRequest(http.MethodGet, path, nil)
		q.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
		a := httptest.NewRecorder()
		app.ServeHTTP(a, q)
		return a
	}
	if a := ask(app1, "/v2/some/image/manifests/"+m.String()); a.Code != http.StatusOK || a.Body.String() != manifest {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	gets := one.gets.Load()

	s = newStore(t, root, store.MinLimit)
	defer s.Close()
	u1, app1 = newApp(t, s, "one", one.URL)
	if a := ask(app1, "/v2/some/image/manifests/"+m.String()); a.Code != http.StatusOK || a.Body.String() != manifest {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	if a := ask(app1, "/v2/some/image/blobs/"+d.String()); a.Code != http.StatusOK || !bytes.Equal(a.Body.Bytes(), content) {
		t.Errorf("%d, %d bytes", a.Code, a.Body.Len())
	}
	b, err := u1.Open(context.Background(), "some/image", d)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b.Content()); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	_ = b.Close()
	if one.gets.Load() != gets {
		t.Error("fetched again after a restart")
	}
	if st := s.Stats(); st.Corrupt != 0 || st.OpenReaders != 0 || st.VerifiedBytes < 5<<20 {
		t.Errorf("%+v", st)
	}
}
