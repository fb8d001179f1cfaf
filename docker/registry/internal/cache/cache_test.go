// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"pullthrough.registry_cache/docker/registry/internal/config"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

const (
	mib          = 1 << 20
	patience     = 20 * time.Second
	manifestType = "application/vnd.oci.image.manifest.v1+json"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(programEnv); file != "" {
		os.Exit(Main(file))
	}
	// Distribution's app starts this goroutine for notifications, and never stops it.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run"),
		goleak.IgnoreAnyFunction("github.com/distribution/distribution/v3/notifications.(*Broadcaster).run"))
}

// registry is an upstream with content. It counts requests.
type registry struct {
	*httptest.Server
	mu      sync.Mutex
	content map[string][]byte // by the last part of the path
	asked   map[string]int
	fault   func(http.ResponseWriter, *http.Request) bool // answers instead

	everything bool // the fault answers for the challenge, too
}

func newRegistry(t testing.TB) *registry {
	u := &registry{content: map[string][]byte{}, asked: map[string]int{}}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

func (u *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	u.mu.Lock()
	u.asked[r.Method+" "+name]++
	body, ok := u.content[name]
	fault := u.fault
	u.mu.Unlock()
	switch {
	case r.URL.Path == "/v2/" && !u.everything:
	case fault != nil && fault(w, r):
	case !ok:
		http.Error(w, "{}", http.StatusNotFound)
	case strings.Contains(r.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(body).String())
		fallthrough
	default:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}
}

func (u *registry) put(names []string, body []byte) digest.Digest {
	u.mu.Lock()
	defer u.mu.Unlock()
	d := digest.FromBytes(body)
	for _, name := range append(names, string(d)) {
		u.content[name] = body
	}
	return d
}

// image adds an image with one layer.
func (u *registry) image(tag string, layer []byte) (manifest []byte, blob digest.Digest) {
	d := u.put(nil, layer)
	c := u.put(nil, []byte("{}"))
	manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json",`+
		`"digest":%q,"size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		manifestType, c, d, len(layer))
	u.put([]string{tag}, manifest)
	return manifest, d
}

func (u *registry) count(what string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[what]
}

func (u *registry) misbehave(fault func(http.ResponseWriter, *http.Request) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fault = fault
}

// running is a cache under test.
type running struct {
	*Cache
	t    testing.TB
	root string
	log  *testutil.LogBuffer
	stop context.CancelFunc
	done chan error
}

// metricsAddress returns the address of the metrics port.
func (r *running) metricsAddress() net.Addr { return r.internal[0].listener.Addr() }

// configuration returns a configuration of a cache of upstreams.
func configuration(t testing.TB, root, more string, upstreams ...*registry) *config.Config {
	t.Helper()
	text := fmt.Sprintf("listen: 127.0.0.1:0\nmetrics: {listen: 127.0.0.1:0}\nstore: {path: %s, limit: 64Mi}\n%s\nupstreams:\n", root, more)
	if !strings.Contains(more, "auth:") {
		text = "auth: none\n" + text
	}
	for i, u := range upstreams {
		text += fmt.Sprintf("  - {host: up-%d.example, url: %q}\n", i, u.URL)
	}
	c, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func start(t testing.TB, c *config.Config) *running {
	t.Helper()
	return startReady(t, c, func(r *running) answer { return r.get("/ready") })
}

// startReady starts a cache and waits until its probe reports that it is ready.
func startReady(t testing.TB, c *config.Config, probe func(*running) answer) *running {
	t.Helper()
	r := &running{t: t, root: c.Store.Path, log: &testutil.LogBuffer{}, done: make(chan error, 1)}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	var err error
	if r.Cache, err = New(c, log, log); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() { r.done <- r.Run(ctx) }()
	t.Cleanup(r.end)
	testutil.Eventually(t, "ready", func() bool { return probe(r).status == 200 })
	return r
}

// end stops the cache. It can be called before the end of the test.
func (r *running) end() {
	r.stop()
	if r.done == nil {
		return
	}
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Error(err)
		}
	case <-time.After(patience):
		r.t.Error("the cache does not end")
	}
	r.done = nil
}

type answer struct {
	status int
	header http.Header
	body   []byte
	err    error
}

// get sends a GET on a new connection. head lists names and values of header fields.
func (r *running) get(path string, head ...string) answer { return fetch(r.Address(), path, head...) }

func fetch(address net.Addr, path string, head ...string) (a answer) {
	req, err := http.NewRequest(http.MethodGet, "http://"+address.String()+path, nil)
	if err != nil {
		return answer{err: err}
	}
	req.Close = true
	for i := 0; i < len(head); i += 2 {
		req.Header.Set(head[i], head[i+1])
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	a.status, a.header = resp.StatusCode, resp.Header
	a.body, a.err = io.ReadAll(resp.Body)
	return a
}

// value returns the value of the metric whose line starts with series.
func (r *running) value(series string) float64 {
	r.t.Helper()
	a := fetch(r.metricsAddress(), "/metrics")
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindSubmatch(a.body)
	if found == nil {
		return 0
	}
	n, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		r.t.Error(err)
	}
	return n
}

func basic(user, password string) string {
	r := &http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

// TestPull pulls an image with one upstream request per object, and again after a restart without the upstream.
func TestPull(t *testing.T) {
	u := newRegistry(t)
	layer := testutil.RandomBytes(2 * mib)
	manifest, blob := u.image("v1", layer)
	c := configuration(t, t.TempDir(), "tags: {ttl: 0s}", u)
	r := start(t, c)
	pull := func(what string) {
		t.Helper()
		for path, want := range map[string][]byte{
			"/v2/": []byte("{}"), "/v2/a/b/manifests/v1": manifest, "/v2/a/b/blobs/" + blob.String(): layer,
			"/v2/a/b/manifests/" + digest.FromBytes(manifest).String() + "?ns=up-0.example": manifest,
		} {
			if a := r.get(path); a.status != 200 || !bytes.Equal(a.body, want) || a.err != nil {
				t.Errorf("%s, %s: %d with %d bytes, %v", what, path, a.status, len(a.body), a.err)
			}
		}
	}
	pull("first")
	pull("second")
	if gets, heads := u.count("GET "+blob.String()), u.count("HEAD "+blob.String()); gets != 1 || heads != 0 {
		t.Errorf("%d GETs and %d HEADs of the blob", gets, heads)
	}
	r.end()
	u.misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "", http.StatusServiceUnavailable)
		return true
	})
	r = start(t, c)
	pull("after a restart, without the upstream")
}

// TestUpstreams pulls the same digest from several upstreams at the same time. They do not share content, although one
// process serves all of them.
func TestUpstreams(t *testing.T) {
	one, two, three := newRegistry(t), newRegistry(t), newRegistry(t)
	layer := testutil.RandomBytes(mib)
	_, blob := one.image("v1", layer)
	two.image("v1", layer)
	alone := one.put([]string{"alone"}, []byte(`{"schemaVersion":2}`))
	r := start(t, configuration(t, t.TempDir(), "", one, two, three))
	var clients sync.WaitGroup
	for i := range 20 {
		clients.Go(func() {
			path := fmt.Sprintf("/v2/a/b/blobs/%s?ns=up-%d.example", blob, i%3)
			a := r.get(path)
			if i%3 == 2 && a.status != 404 || i%3 != 2 && (a.status != 200 || !bytes.Equal(a.body, layer)) {
				t.Errorf("%s: %d with %d bytes, %v", path, a.status, len(a.body), a.err)
			}
		})
	}
	clients.Wait()
	for i, u := range []*registry{one, two, three} {
		if n := u.count("GET " + blob.String()); n != 1 {
			t.Errorf("%d GETs of upstream %d", n, i)
		}
		if n := r.value(fmt.Sprintf(`registry_cache_upstream_requests_total{kind="blob",status="%d",upstream="up-%d.example"}`, 200+204*(i/2), i)); n != 1 {
			t.Errorf("%v requests of upstream %d are counted", n, i)
		}
	}
	for path, status := range map[string]int{
		"/v2/a/b/manifests/alone":                              200,
		"/v2/a/b/manifests/alone?ns=up-1.example":              404,
		"/v2/a/b/manifests/" + string(alone) + "?ns=elsewhere": 404,
	} {
		if a := r.get(path); a.status != status {
			t.Errorf("%s: %d", path, a.status)
		}
	}
}

// TestMetrics checks that each request is counted once, by result, and that no credential is shown.
func TestMetrics(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("right-password"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(file, append([]byte("user:"), append(hash, '\n')...), 0o600); err != nil {
		t.Fatal(err)
	}
	u := newRegistry(t)
	_, blob := u.image("v1", testutil.RandomBytes(mib))
	r := start(t, configuration(t, t.TempDir(), "log: {access: all}\nauth: {htpasswd: "+file+"}", u))
	good, wrong := basic("user", "right-password"), basic("user", "wrong-password")
	at := "/v2/a/b/blobs/" + blob.String()
	u.misbehave(func(_ http.ResponseWriter, req *http.Request) bool {
		if strings.HasSuffix(req.URL.Path, string(blob)) {
			testutil.Eventually(t, "three clients", func() bool { return r.content.Load().fills["up-0.example"].Stats().Shared == 2 })
		}
		return false
	})
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() { r.get(at, "Authorization", good) })
	}
	clients.Wait()
	testutil.Eventually(t, "the blob is stored", func() bool { return r.content.Load().fills["up-0.example"].Stats().Running == 0 })
	for _, request := range []struct {
		path, authorization string
		status              int
	}{
		{at, good, 200},
		{"/v2/", "", 401},
		{"/v2/", good, 200},
		{"/v2/a/b/manifests/v1", wrong, 401},
		{"/v2/a/b/manifests/v1", good, 200},
		{"/v2/a/b/manifests/v1", good, 200},
		{"/v2/a/b/manifests/none", good, 404},
		{"/v2/a/b/blobs/" + string(digest.FromString("none")), good, 404},
		{"/v2/_catalog", good, 404},
		{"/v2/a/b/nothing", good, 404},
		{"/alive", "", 200},
	} {
		if a := r.get(request.path, "Authorization", request.authorization); a.status != request.status {
			t.Errorf("%s: %d", request.path, a.status)
		}
	}
	if r.get("/v2/a/b/manifests/v1").status != 401 { // no header at all
		t.Error("let in without a credential")
	}
	for labels, want := range map[string]float64{
		`kind="blob",result="miss"`: 1, `kind="blob",result="shared"`: 2, `kind="blob",result="hit"`: 1, `kind="blob",result="absent"`: 1,
		`kind="tag",result="miss"`: 1, `kind="tag",result="hit"`: 1, `kind="tag",result="absent"`: 1, `kind="tag",result="denied"`: 1,
		`kind="tag",result="challenge"`: 1, `kind="other",result="challenge"`: 1, `kind="other",result="hit"`: 1,
	} {
		if n := r.value(`registry_cache_requests_total{` + labels + `,upstream="up-0.example"}`); n != want {
			t.Errorf("%s: %v, want %v", labels, n, want)
		}
	}
	if n := r.value(`registry_cache_sent_bytes_total{kind="blob",result="shared",upstream="up-0.example"}`); n != 2*mib {
		t.Errorf("%v bytes", n)
	}
	if n := r.value("registry_cache_htpasswd_users"); n != 1 {
		t.Errorf("%v users", n)
	}
	if n := r.value("registry_cache_disk_used_bytes"); n < mib {
		t.Errorf("%v bytes used", n)
	}
	shown := string(fetch(r.metricsAddress(), "/metrics").body) + r.log.String()
	for _, secret := range []string{good, wrong, "right-password", "wrong-password", string(hash), "a/b\""} {
		if strings.Contains(shown, secret) {
			t.Errorf("%s is shown", secret)
		}
	}
	if !strings.Contains(shown, "msg=Request") {
		t.Error("no access log")
	}
}

// TestInvalidSetup checks that New or Run returns a clear error immediately, and leaves nothing open.
func TestInvalidSetup(t *testing.T) {
	u := newRegistry(t)
	taken := testutil.Listen(t)
	defer taken.Close()
	log := slog.New(slog.DiscardHandler)
	empty := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(empty, []byte("user:plain\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*config.Config){
		"listen ":         func(c *config.Config) { c.Listen = taken.Addr().String() },
		"metrics.listen ": func(c *config.Config) { c.Metrics.Listen = taken.Addr().String() },
		"pprof.listen ":   func(c *config.Config) { c.Pprof = &config.Endpoint{Listen: taken.Addr().String()} },
		"auth.htpasswd: ": func(c *config.Config) { c.Auth = config.Auth{Htpasswd: empty} },
		"tls ":            func(c *config.Config) { c.TLS = &config.TLS{Certificate: empty, Key: empty} },
	} {
		c := configuration(t, t.TempDir(), "", u)
		change(c)
		if _, err := New(c, log, log); err == nil || !strings.HasPrefix(err.Error(), key) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "; ") {
			t.Errorf("%s: %v", key, err)
		}
	}
	first := start(t, configuration(t, t.TempDir(), "", u))
	second, err := New(configuration(t, first.root, "", u), log, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "store.path") || strings.Contains(err.Error(), "\n") {
		t.Errorf("a store in use: %v", err)
	}
}

// TestDrain checks that open transfers finish, the probe fails, and metrics are available until the end.
func TestDrain(t *testing.T) {
	u := newRegistry(t)
	layer := testutil.RandomBytes(mib)
	_, blob := u.image("v1", layer)
	r := start(t, configuration(t, t.TempDir(), "drain: 20s", u))
	half, rest := make(chan struct{}), make(chan struct{})
	u.misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
		_, _ = w.Write(layer[:mib/2])
		_ = http.NewResponseController(w).Flush()
		close(half)
		<-rest
		_, _ = w.Write(layer[mib/2:])
		return true
	})
	got := make(chan answer, 1)
	go func() { got <- r.get("/v2/a/b/blobs/" + blob.String()) }()
	<-half
	r.stop()
	testutil.Eventually(t, "the end of the listener", func() bool { return r.get("/v2/").err != nil })
	if a := fetch(r.metricsAddress(), "/ready"); a.status != 503 {
		t.Errorf("still ready: %d", a.status)
	}
	if r.value("registry_cache_disk_limit_bytes") != 64*mib {
		t.Error("no metrics while it drains")
	}
	close(rest)
	if a := <-got; a.status != 200 || !bytes.Equal(a.body, layer) {
		t.Errorf("%d with %d bytes, %v", a.status, len(a.body), a.err)
	}
}

// TestErrors checks that errors have the form of the specification.
func TestErrors(t *testing.T) {
	r := start(t, configuration(t, t.TempDir(), "", newRegistry(t)))
	for path, want := range map[string]string{
		"/v2/a/b/manifests/none": "MANIFEST_UNKNOWN", "/v2/a/b/tags/list": "NAME_UNKNOWN", "/v2/_catalog": "UNSUPPORTED",
		"/v2/a/b/blobs/sha256:x": "DIGEST_INVALID", "/v2/a/b/blobs/" + string(digest.FromString("none")): "BLOB_UNKNOWN",
	} {
		var body struct{ Errors []struct{ Code string } }
		a := r.get(path)
		if err := json.Unmarshal(a.body, &body); err != nil || len(body.Errors) != 1 || body.Errors[0].Code != want {
			t.Errorf("%s: %d, %s", path, a.status, a.body)
		}
	}
}
