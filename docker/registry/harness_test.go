// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"pullthrough.registry_cache/docker/registry/internal/htpasswd"
	"pullthrough.registry_cache/docker/registry/internal/status"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// hangs is how long the registry of a test waits for a manifest to begin.
const hangs = 2 * time.Second

// serveEnv makes the test binary the registry itself, for what needs a process of its own.
const serveEnv = "REGISTRY_TEST_SERVE"

func TestMain(m *testing.M) {
	if file := os.Getenv(serveEnv); file != "" {
		os.Args = []string{"registry", "serve", file}
		main()
		return
	}
	logrus.SetLevel(logrus.PanicLevel)
	prepare(status.Limits{Challenge: hangs / 2, Manifest: hangs, Blob: hangs * 3 / 2})
	os.Exit(m.Run())
}

// upstream is a registry that can be made to misbehave.
type upstream struct {
	*httptest.Server
	mu      sync.Mutex
	content map[string][]byte // by the last part of the path: a digest or a tag
	gets    map[string]int
	// fault answers in place of the upstream when it returns true.
	fault func(w http.ResponseWriter, r *http.Request, body []byte) bool
	// silent hangs where the registry asks for its challenge.
	silent bool
	pings  int
	// tokens answers at /token, if what else is asked needs one.
	tokens http.HandlerFunc
}

func newUpstream(t *testing.T) *upstream {
	up := &upstream{content: map[string][]byte{}, gets: map[string]int{}}
	up.Server = httptest.NewServer(http.HandlerFunc(up.serve))
	t.Cleanup(up.Close)
	return up
}

func (up *upstream) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		up.tokens(w, r)
		return
	}
	if up.tokens != nil && r.Header.Get("Authorization") == "" {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.URL.Path == "/v2/" {
		up.mu.Lock()
		up.pings++
		silent := up.silent
		up.mu.Unlock()
		if silent {
			<-r.Context().Done()
		}
		return
	}
	name := filepath.Base(r.URL.Path)
	up.mu.Lock()
	body, ok := up.content[name]
	fault := up.fault
	if r.Method == http.MethodGet {
		up.gets[name]++
	}
	up.mu.Unlock()
	if !ok && fault != nil && fault(w, r, nil) {
		return
	}
	if !ok {
		http.Error(w, "no such thing", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.Header().Set("Content-Type", "application/octet-stream")
	if strings.Contains(r.URL.Path, "/manifests/") {
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(body).String())
	}
	if fault != nil && fault(w, r, body) {
		return
	}
	_, _ = w.Write(body)
}

func (up *upstream) misbehave(fault func(w http.ResponseWriter, r *http.Request, body []byte) bool) {
	up.mu.Lock()
	defer up.mu.Unlock()
	up.fault = fault
}

// onBlob is a fault of the GET of blobs only.
func onBlob(fault func(w http.ResponseWriter, body []byte)) func(http.ResponseWriter, *http.Request, []byte) bool {
	return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		fault(w, body)
		return true
	}
}

func (up *upstream) asked(name string) int {
	up.mu.Lock()
	defer up.mu.Unlock()
	return up.gets[name]
}

// blob adds random bytes.
func (up *upstream) blob(size int) digest.Digest {
	body := make([]byte, size)
	seed := rand.Uint64()
	for i := range body {
		seed = seed*6364136223846793005 + 1442695040888963407
		body[i] = byte(seed >> 56)
	}
	d := digest.FromBytes(body)
	up.put(d.String(), body)
	return d
}

func (up *upstream) put(name string, body []byte) {
	up.mu.Lock()
	defer up.mu.Unlock()
	up.content[name] = body
}

func (up *upstream) bytes(d digest.Digest) []byte {
	up.mu.Lock()
	defer up.mu.Unlock()
	return up.content[d.String()]
}

// image adds a manifest under a tag, with one layer.
func (up *upstream) image(tag string, layer int) (manifest, blob digest.Digest) {
	config := up.blob(64)
	blob = up.blob(layer)
	body := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,
"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":64},
"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, manifestType, config, blob, layer)
	manifest = digest.FromBytes(body)
	up.put(manifest.String(), body)
	up.put(tag, body)
	return manifest, blob
}

func yaml(upstream, root, addr string, limit int64) string {
	return fmt.Sprintf(`version: 0.1
log: {level: warn, accesslog: {disabled: true}}
http: {addr: %q}
storage:
  filesystem: {rootdirectory: %q}
  maintenance: {uploadpurging: {enabled: false}}
middleware:
  storage: [{name: bounded, options: {limit: %d}}]
  repository: [{name: verify}]
proxy: {remoteurl: %q, ttl: 0, cachewritetimeout: 24h}
`, addr, root, limit, upstream)
}

// cache is the registry's own handlers on a directory.
type cache struct {
	*httptest.Server
	t    *testing.T
	root string
}

func newCache(t *testing.T, up *upstream, root string, limit int64) *cache {
	return &cache{t: t, root: root, Server: startConfig(t, yaml(up.URL, root, "", limit))}
}

func startConfig(t *testing.T, config string) *httptest.Server {
	parsed, err := configuration.Parse(strings.NewReader(config))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(htpasswd.Handler(parsed, status.Handler(parsed, handlers.NewApp(context.Background(), parsed))))
	server.Config.ErrorLog = log.New(complaints{t}, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	return server
}

// complaints fails the test when a handler answers twice.
type complaints struct{ t *testing.T }

func (c complaints) Write(p []byte) (int, error) {
	c.t.Errorf("server: %s", p)
	return len(p), nil
}

// answer is all that a client sees of one request.
type answer struct {
	*http.Response
	body []byte
	err  error // of reading the body
}

func (a answer) String() string {
	return fmt.Sprintf("status %d, %d bytes of %d, error %v", a.StatusCode, len(a.body), a.ContentLength, a.err)
}

// client never asks twice by itself, as it would on a connection kept alive.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func ask(t *testing.T, method, url string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", manifestType)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Error(err) // from other goroutines too
		return answer{Response: &http.Response{Header: http.Header{}}, err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, body, err}
}

func (c *cache) blob(d digest.Digest, headers ...string) answer {
	c.t.Helper()
	return ask(c.t, http.MethodGet, c.URL+"/v2/some/image/blobs/"+d.String(), headers...)
}

func (c *cache) manifest(ref string, headers ...string) answer {
	c.t.Helper()
	return ask(c.t, http.MethodGet, c.URL+"/v2/some/image/manifests/"+ref, headers...)
}

// right fails unless the answer is whole and what the digest names.
func right(t *testing.T, a answer, d digest.Digest) {
	t.Helper()
	if a.StatusCode != http.StatusOK || a.err != nil || digest.FromBytes(a.body) != d {
		t.Fatalf("not right: %v", a)
	}
	if a.ContentLength != int64(len(a.body)) {
		t.Fatalf("Content-Length %d of %d bytes", a.ContentLength, len(a.body))
	}
}

// files lists what is in the store, without directories.
func files(t *testing.T, root string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !e.IsDir() {
			all = append(all, strings.TrimPrefix(name, root))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// clean fails if anything of an unfinished upload is left.
func clean(t *testing.T, root string) {
	t.Helper()
	_ = filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err == nil && (strings.Contains(name, "_uploads") || strings.HasSuffix(name, ".tmp")) {
			t.Errorf("left: %s", name)
		}
		return nil
	})
}

// stored tells whether the data of a blob is in the store.
func stored(root string, d digest.Digest) bool {
	_, err := os.Stat(data(root, d))
	return err == nil
}

func data(root string, d digest.Digest) string {
	return filepath.Join(root, "docker/registry/v2/blobs/sha256", d.Encoded()[:2], d.Encoded(), "data")
}

// du is what du tells, but for what goes while it looks: the sum was in use at one moment.
func du(root string) (used int64) {
	seen := map[string]fs.FileInfo{}
	_ = filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		if fi, err := e.Info(); err == nil {
			seen[name] = fi
		}
		return nil
	})
	for name, then := range seen {
		if now, err := os.Lstat(name); err == nil && os.SameFile(now, then) {
			used += then.Sys().(*syscall.Stat_t).Blocks * 512
		}
	}
	return used
}

// until waits for what another goroutine brings about.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
