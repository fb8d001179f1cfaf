// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"pullthrough.registry_cache/docker/registry/internal/config"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

const mib = 1 << 20

var ctx = context.Background()

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard)
	if len(os.Args) > 1 && os.Args[1] == "get" {
		helperMain()
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run")) // one per app, never stopped
}

// patient has limits that no test reaches by accident.
var patient = Limits{Challenge: 20 * time.Second, Stall: 40 * time.Second, Remember: time.Minute}

// soon is a limit for which tests wait, but which a busy machine does not exceed otherwise.
const soon = 600 * time.Millisecond

// item is content of the registry.
type item struct {
	mediaType string
	digest    digest.Digest
	content   []byte
}

// registry is an upstream that can be made to misbehave.
type registry struct {
	*httptest.Server
	mu    sync.Mutex
	items map[string]item // by last path segment
	asked map[string]int  // by "METHOD last path segment"
	fault func(w http.ResponseWriter, r *http.Request) bool
	// login makes the registry require a token, or the credential itself if basic is set.
	login  bool
	basic  bool
	secret string // the password for a token
	public bool   // tokens are issued without a credential
	token  string // token that the registry accepts
	realm  string // host of the token server
	grants int    // number of issued tokens
}

func newRegistry(t testing.TB) *registry {
	g := &registry{items: map[string]item{}, asked: map[string]int{}, token: "t1", secret: "s1"}
	g.Server = httptest.NewServer(http.HandlerFunc(g.serve))
	t.Cleanup(g.Close)
	return g
}

func (g *registry) host() string { return strings.TrimPrefix(g.URL, "http://") }

func (g *registry) misbehave(fault func(w http.ResponseWriter, r *http.Request) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fault = fault
}

func (g *registry) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

func (g *registry) count(what string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked[what]
}

func (g *registry) serve(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	g.mu.Lock()
	g.asked[r.Method+" "+name]++
	fault := g.fault
	login, basic, token, realm := g.login, g.basic, g.token, g.realm
	g.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	if r.URL.Path == "/token" {
		g.grant(w, r)
		return
	}
	if realm == "" {
		realm = r.Host
	}
	if login && !strings.HasPrefix(r.URL.Path, "/elsewhere/") {
		_, password, _ := r.BasicAuth()
		g.mu.Lock()
		known := basic && password == g.secret || !basic && r.Header.Get("Authorization") == "Bearer "+token
		g.mu.Unlock()
		if !known {
			challenge := fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, realm)
			if basic {
				challenge = `Basic realm="test"`
			}
			w.Header().Set("WWW-Authenticate", challenge)
			refuse(w, http.StatusUnauthorized)
			return
		}
	}
	g.mu.Lock()
	found := g.items[name]
	g.mu.Unlock()
	switch {
	case r.URL.Path == "/v2/":
		return
	case found.content == nil:
		refuse(w, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", found.mediaType)
	if found.digest != "" {
		w.Header().Set("Docker-Content-Digest", found.digest.String())
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(found.content)))
}

func (g *registry) grant(w http.ResponseWriter, r *http.Request) {
	_, password, _ := r.BasicAuth()
	g.mu.Lock()
	defer g.mu.Unlock()
	if password != g.secret && !(g.public && password == "") {
		refuse(w, http.StatusUnauthorized)
		return
	}
	g.grants++
	_, _ = fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, g.token)
}

// refuse writes an error response of the specification.
func refuse(w http.ResponseWriter, status int, header ...string) {
	for i := 0; i+1 < len(header); i += 2 {
		w.Header().Set(header[i], header[i+1])
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(`{"errors":[{"code":"WHATEVER","message":"of the upstream"}]}`))
}

// on limits a fault to requests with a method and a part of the path.
func on(method, part string, fault func(w http.ResponseWriter, r *http.Request)) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if method != "" && r.Method != method || !strings.Contains(r.URL.Path, part) {
			return false
		}
		fault(w, r)
		return true
	}
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// blob adds random bytes.
func (g *registry) blob(size int) (digest.Digest, []byte) {
	content := testutil.RandomBytes(size)
	d := digest.FromBytes(content)
	g.put(d.String(), item{"application/octet-stream", d, content})
	return d, content
}

func (g *registry) put(name string, it item) { g.set(func() { g.items[name] = it }) }

// manifest adds a manifest by digest and tag.
func (g *registry) manifest(tag, mediaType, content string) digest.Digest {
	it := item{mediaType, digest.FromString(content), []byte(content)}
	g.put(it.digest.String(), it)
	g.put(tag, it)
	return it.digest
}

// image adds an image's manifest.
func (g *registry) image(tag string) digest.Digest {
	return g.manifest(tag, v1.MediaTypeImageManifest, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,
"digest":%q,"size":2},"layers":[],"annotations":{"n":"%d"}}`, v1.MediaTypeImageManifest, v1.MediaTypeImageConfig, digest.FromString("{}"), rand.Uint64()))
}

// setup is an Upstream with its registry and store.
type setup struct {
	*Upstream
	g       *registry
	store   *store.Store
	metrics *prometheus.Registry
}

func newStore(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.New(store.Options{Path: t.TempDir(), Limit: store.MinLimit, ScrubRate: -1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func open(t testing.TB, g *registry, s *store.Store, m *Metrics, name string, limits Limits, c *config.Credential) *Upstream {
	t.Helper()
	part, err := s.Upstream(name)
	if err != nil {
		t.Fatal(err)
	}
	u, err := New(Options{
		Config: config.Upstream{Host: name, URL: g.URL, Credential: c}, Limits: limits, Store: part, Metrics: m,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	return u
}

func start(t testing.TB, limits Limits, c *config.Credential) *setup {
	t.Helper()
	s := &setup{g: newRegistry(t), store: newStore(t), metrics: prometheus.NewRegistry()}
	m := NewMetrics()
	if err := m.Register(s.metrics); err != nil {
		t.Fatal(err)
	}
	s.Upstream = open(t, s.g, s.store, m, "up.example", limits, c)
	return s
}

// again opens the same store with other limits, like a restart of the program.
func (s *setup) again(t testing.TB, limits Limits) *setup {
	t.Helper()
	n := *s
	n.Upstream = open(t, s.g, s.store, NewMetrics(), "up.example", limits, nil)
	return &n
}

// value returns the sum of a metric's samples with the given label values.
func (s *setup) value(t testing.TB, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			var have []string
			for _, l := range m.GetLabel() {
				have = append(have, l.GetValue())
			}
			ok := true
			for _, want := range labels {
				ok = ok && strings.Contains(" "+strings.Join(have, " ")+" ", " "+want+" ")
			}
			if ok {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func tag(name string) route.Request {
	return route.Request{Kind: route.Manifest, Upstream: "up.example", Repository: "some/image", Tag: name}
}

func byDigest(d digest.Digest) route.Request {
	return route.Request{Kind: route.Manifest, Upstream: "up.example", Repository: "some/image", Digest: d}
}

func blob(d digest.Digest) route.Request {
	return route.Request{Kind: route.Blob, Upstream: "up.example", Repository: "some/image", Digest: d}
}

func tags(query string) route.Request {
	return route.Request{Kind: route.Tags, Upstream: "up.example", Repository: "some/image", Query: query}
}

func referrers(d digest.Digest, query string) route.Request {
	return route.Request{Kind: route.Referrers, Upstream: "up.example", Repository: "some/image", Digest: d, Query: query}
}

// right fails the test unless a manifest is that of the registry.
func (s *setup) right(t testing.TB, r route.Request) *Answer {
	t.Helper()
	a, err := s.Get(ctx, r, "")
	if err != nil {
		t.Fatalf("%s: %v", r.Path(), err)
	}
	s.g.mu.Lock()
	want := s.g.items[r.Reference()]
	s.g.mu.Unlock()
	if string(a.Body) != string(want.content) || a.Header.Get("Content-Type") != want.mediaType ||
		a.Digest != want.digest || a.Header.Get("Docker-Content-Digest") != want.digest.String() {
		t.Fatalf("%s: %s %s %s", r.Path(), a.Header, a.Digest, a.Body)
	}
	return a
}

// fetched is the result of a fetch and of a client that reads from the beginning.
type fetched struct {
	content []byte
	read    error // error of the client
	err     error // error of Fetch
	state   store.State
	written int64
}

func (s *setup) fetch(t testing.TB, u *Upstream, d digest.Digest, size int64) fetched {
	t.Helper()
	return s.fetchIn(t, ctx, u, d, size)
}

func (s *setup) fetchIn(t testing.TB, ctx context.Context, u *Upstream, d digest.Digest, size int64) (f fetched) {
	t.Helper()
	g := u.store.Grow(d, size)
	r, err := g.NewReader(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { f.content, f.read = io.ReadAll(r) })
	f.err = u.Fetch(ctx, blob(d), g)
	g.Finish(f.err)
	f.state, _ = g.State()
	f.written = g.Written()
	reading.Wait()
	_ = r.Close()
	g.Close()
	return f
}

// isError fails the test unless err is an *Error with this status and code.
func isError(t testing.TB, what string, err error, status int, code string) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Status != status || e.Code != code || e.Message == "" {
		t.Errorf("%s: got %#v, want %d %s", what, err, status, code)
		return &Error{}
	}
	if (e.RetryAfter != 0) != (status == 429 || status > 500) {
		t.Errorf("%s: %d with Retry-After %s", what, status, e.RetryAfter)
	}
	return e
}

// size returns the size of a blob from a HEAD, which is sent if a GET does not return the size.
func (s *setup) size(ctx context.Context, r route.Request) (int64, error) {
	return do(ctx, s.Upstream, r, func(ctx context.Context) (int64, error) { return s.stat(ctx, r) })
}

// briefly is how long a test waits for something that must not happen.
const briefly = 50 * time.Millisecond

// late fails the test unless a request runs until its context is done.
func (s *setup) late(t testing.TB, r route.Request) {
	t.Helper()
	c, cancel := context.WithTimeoutCause(ctx, briefly, errLate)
	defer cancel()
	var err error
	if r.Kind == route.Blob {
		_, err = s.size(c, r)
	} else {
		_, err = s.Get(c, r, "")
	}
	if !errors.Is(err, errLate) {
		t.Errorf("%s: %v", r.URI(), err)
	}
}

var errLate = errors.New("the client has gone")
