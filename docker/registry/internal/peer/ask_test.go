// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/server"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

const (
	smallURI  = "/v2/a/manifests/latest?ns=example.com"
	smallBody = `{"schemaVersion":2}`
	blobURI   = "/v2/a/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// small returns a manifest.
var small = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	w.Header().Set("X-Unproven", "1")
	SetAge(w.Header(), 1500*time.Millisecond, true)
	_, _ = io.WriteString(w, smallBody)
})

func TestSmallAnswer(t *testing.T) {
	seen := make(chan *http.Request, 1)
	a, b := pair(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		small(w, r)
	}))
	header := http.Header{"Accept": {"x/y", "z"}, "Cookie": {"secret"}, "If-None-Match": {"*"}}
	resp, err := a.Do(t.Context(), "b", http.MethodGet, smallURI, header, CallOptions{StoreOnly: true, UpstreamDown: true})
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(resp.Body)
	age, stale := Age(resp.Header)
	if err != nil || string(content) != smallBody || age != 1500*time.Millisecond || !stale || resp.Header.Get("X-Unproven") != "" ||
		resp.Header.Get("Content-Length") != strconv.Itoa(len(smallBody)) {
		t.Errorf("%q %v %v", content, err, resp.Header)
	}
	r := <-seen
	if hop, ok := FromContext(r.Context()); !ok || hop != (Hop{"a", true, true}) || r.RequestURI != smallURI {
		t.Errorf("%v %v", hop, r)
	}
	if len(r.Header) != 1 || !slices.Equal(r.Header["Accept"], header["Accept"]) {
		t.Errorf("the handler got %v", r.Header)
	}
	if s := a.Stats(); s.Hops[Answered] != 1 || b.Stats().Received != 1 {
		t.Errorf("%+v", s)
	}
}

func TestAnswersOfAllKinds(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	file := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	a, _ := pair(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("kind") {
		case "file":
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Docker-Content-Digest", "sha256:1")
			http.ServeFile(w, r, file)
		case "growing": // a blob of unknown length
			_, _ = w.Write(content[:10])
			_, _ = w.Write(content[10:20])
		case "error":
			server.WriteError(w, r, http.StatusNotFound, "BLOB_UNKNOWN", "there is none")
		case "304":
			w.Header().Set("Content-Type", "x/y")
			w.WriteHeader(http.StatusNotModified)
		case "long":
			for range 18 {
				_, _ = w.Write(content)
			}
		case "guess":
			_, _ = io.WriteString(w, "<html>")
		case "cut":
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write(content[:10])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}))
	do := func(method, uri, ranges string) (*http.Response, string, error) {
		header := http.Header{}
		if ranges != "" {
			header.Set("Range", ranges)
		}
		resp, err := a.Do(t.Context(), "b", method, uri, header, CallOptions{})
		if err != nil {
			return nil, "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp, string(body), err
	}
	for _, c := range []struct {
		method, uri, ranges string
		status              int
		want                string
	}{
		{"GET", blobURI + "?kind=file", "", 200, string(content)},
		{"HEAD", blobURI + "?kind=file", "", 200, ""},
		{"GET", blobURI + "?kind=file", "bytes=5-9", 206, "56789"},
		{"GET", blobURI + "?kind=file", "bytes=99999999-", 416, "invalid range: failed to overlap\n"},
		{"GET", blobURI + "?kind=growing", "", 200, string(content[:20])},
		{"HEAD", blobURI + "?kind=growing", "", 200, ""},
		{"HEAD", blobURI + "?kind=error", "", 404, ""},
		{"GET", "/v2/a/manifests/x?kind=304", "", 304, ""},
		{"GET", "/v2/a/manifests/x?kind=guess", "", 200, "<html>"},
		{"HEAD", "/v2/a/manifests/x?kind=guess", "", 200, ""},
	} {
		resp, body, err := do(c.method, c.uri, c.ranges)
		if err != nil || resp.StatusCode != c.status || body != c.want {
			t.Errorf("%+v: %v %d bytes %v", c.uri+c.method+c.ranges, resp, len(body), err)
		}
	}
	if resp, body, err := do("GET", blobURI+"?kind=error", ""); err != nil || resp.StatusCode != 404 || !strings.Contains(body, "BLOB_UNKNOWN") {
		t.Errorf("%v %s %v", resp, body, err)
	}
	if resp, _, err := do("GET", "/v2/a/tags/list?kind=long", ""); err != nil || resp.StatusCode != 500 {
		t.Errorf("an answer beyond smallLimit: %v %v", resp, err)
	}
	if _, body, err := do("GET", blobURI+"?kind=cut", ""); resultOf(err) != Unreachable || len(body) != 10 || a.Stats().Cut != 1 {
		t.Errorf("a body that was cut: %d bytes, %v", len(body), err)
	}
	if _, _, err := do("GET", "/v2/a/tags/list?kind=cut", ""); resultOf(err) != Unreachable {
		t.Errorf("a small answer that was cut: %v", err)
	}
	testutil.Eventually(t, "it is found alive", func() bool { s := a.Stats(); return s.Suspect+s.Out == 0 && s.Probes > 0 })
}

// TestCutOnIdleConnections uses a member that closes connections before it answers, while several connections to it are
// idle. net/http resends such a request, and the member refuses it.
func TestCutOnIdleConnections(t *testing.T) {
	const idle = 4
	var all sync.WaitGroup
	all.Add(idle)
	var cuts atomic.Int64
	a, b := pair(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "cut" {
			cuts.Add(1)
			panic(http.ErrAbortHandler)
		}
		all.Done()
		all.Wait()
		small(w, r)
	}))
	var asking sync.WaitGroup
	for range idle {
		asking.Go(func() {
			if _, _, err := get(t, a, "b", "/v2/a/manifests/1"); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	_, _, err := get(t, a, "b", "/v2/a/manifests/1?cut")
	if n := b.Stats().Refusals[Replayed]; resultOf(err) != Unreachable || cuts.Load() != 2 || n == 0 {
		t.Errorf("%v, handled %d times, refused %d times", err, cuts.Load(), n)
	}
}

// changed returns two replicas with a proxy between them that changes answers, except those to probes.
func changed(t *testing.T, change func(*http.Response)) (*Peers, *Peers) {
	t.Helper()
	b := newPeers(t, "b")
	to, err := url.Parse("http://" + serve(t, b.Handler(small)))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = transport
	proxy.ModifyResponse = func(resp *http.Response) error {
		if resp.Request.URL.Path != probeURI {
			change(resp)
		}
		return nil
	}
	return newPeers(t, "a", Member{"b", serve(t, proxy)}), b
}

func TestChangedAnswersAreIgnored(t *testing.T) {
	for what, change := range map[string]func(*http.Response){
		"no proof": func(r *http.Response) { r.Header.Del(proofHeader) },
		"body":     func(r *http.Response) { r.Body = io.NopCloser(strings.NewReader(strings.ToUpper(smallBody))) },
		"short": func(r *http.Response) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("")), -1
			r.Header.Del("Content-Length")
		},
		"type":   func(r *http.Response) { r.Header.Set("Content-Type", "text/html") },
		"link":   func(r *http.Response) { r.Header.Set("Link", "<x>") },
		"stale":  func(r *http.Response) { r.Header.Del(staleHeader) },
		"status": func(r *http.Response) { r.StatusCode = 404 },
		"digest": func(r *http.Response) {
			r.Header.Set(proofHeader, strings.Replace(r.Header.Get(proofHeader), "body=", "body=digest, b=", 1))
		},
	} {
		a, _ := changed(t, change)
		if _, _, err := get(t, a, "b", smallURI); resultOf(err) != Untrusted {
			t.Errorf("%s: %v", what, err)
		}
		if n := a.Stats().Hops[Untrusted]; n != 1 {
			t.Errorf("%s: %d are counted", what, n)
		}
		testutil.Eventually(t, "the probe finds it alive", func() bool { s := a.Stats(); return s.Suspect+s.Out == 0 && s.Probes > 0 })
	}
	a, _ := changed(t, func(r *http.Response) { r.Header.Set("X-Other", "1") })
	if _, _, err := get(t, a, "b", smallURI); err != nil {
		t.Errorf("a header that no proof covers: %v", err)
	}
}

// TestInheritedAddress checks that answers are ignored if the member's address now belongs to another process or
// another member.
func TestInheritedAddress(t *testing.T) {
	other := newPeers(t, "c")
	for what, h := range map[string]http.Handler{"a stranger": small, "another member": other.Handler(small)} {
		a := newPeers(t, "a", Member{"b", serve(t, h)})
		var log bytes.Buffer
		a.log = slog.New(slog.NewTextHandler(&log, nil))
		begun := time.Now()
		if _, _, err := get(t, a, "b", smallURI); resultOf(err) != Untrusted {
			t.Errorf("%s: %v", what, err)
		}
		if a.Stats().Suspect != 1 {
			t.Errorf("%s is not suspect", what)
		}
		testutil.Eventually(t, "it is out", func() bool { return a.Stats().Out == 1 })
		if took := time.Since(begun); took < outAfter-step {
			t.Errorf("%s is out after %v", what, took)
		}
		a.Close()
		if !strings.Contains(log.String(), errNoProof.Error()) {
			t.Errorf("%s: the log does not say why: %s", what, log.String())
		}
	}
	if other.Stats().Refusals[WrongMember] < 2 {
		t.Errorf("%+v", other.Stats())
	}
}

// TestOldAndNew runs replicas with two versions of the protocol.
func TestOldAndNew(t *testing.T) {
	a, b := pair(t, small)
	b.version = "2"
	_, _, err := get(t, a, "b", smallURI)
	if resultOf(err) != Unable || !strings.Contains(err.Error(), "versions 2, not 1") {
		t.Fatal(err)
	}
	if s := a.Stats(); s.Hops[Unable] != 1 || s.Out != 0 || b.Stats().Refusals[Version] != 1 {
		t.Errorf("%+v", s)
	}
	// A member with another version that was out becomes in again, although its answers cannot be used.
	a.find("b").markOut("test")
	testutil.Eventually(t, "it is in", func() bool { return a.Stats().Out == 0 })
	b.version = version
	if _, _, err := get(t, a, "b", smallURI); err != nil {
		t.Error(err)
	}
}

func TestRotation(t *testing.T) {
	next := strings.Repeat("n", 32)
	a, b := pair(t, small)
	for _, step := range []struct{ of, other string }{
		{testSecret + "\n" + next, testSecret}, {next + "\n" + testSecret, testSecret + "\n" + next}, {next, next + "\n" + testSecret},
	} {
		of, _ := parseSecret(step.of)
		other, _ := parseSecret(step.other)
		for range 2 {
			a.secret.keys.Store(&of)
			b.secret.keys.Store(&other)
			if _, _, err := get(t, a, "b", smallURI); err != nil {
				t.Errorf("%q asks %q: %v", of, other, err)
			}
			of, other = other, of
		}
	}
}

// TestSilence uses a member that answers late and in parts. The caller is notified, and the member stays in.
func TestSilence(t *testing.T) {
	goOn := make(chan struct{})
	defer func() { close(goOn) }()
	a, _ := pair(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-goOn
		_, _ = io.WriteString(w, "first")
		_ = http.NewResponseController(w).Flush()
		<-goOn
		_, _ = io.WriteString(w, "second")
	}))
	told := make(chan time.Time, 10)
	begun := time.Now()
	go func() {
		first := <-told
		if took := first.Sub(begun); took < suspectAfter || took > 2*suspectAfter {
			t.Errorf("Silent was called after %v", took)
		}
		testutil.Eventually(t, "it is found alive", func() bool { return a.Stats().Suspect == 0 })
		time.Sleep(1300 * time.Millisecond)
		goOn <- struct{}{}
		<-told
		goOn <- struct{}{}
	}()
	resp, err := a.Do(t.Context(), "b", http.MethodGet, blobURI, nil, CallOptions{Silent: func() { told <- time.Now() }})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(suspectAfter / 2)
	content, err := io.ReadAll(resp.Body)
	if err != nil || string(content) != "firstsecond" || len(told) > 0 {
		t.Errorf("%q %v, Silent was called %d more times", content, err, len(told))
	}
	_ = resp.Body.Close()
	if s := a.Stats(); s.Hops[Answered] != 1 || s.Cut != 0 || s.Probes < 2 || s.Suspect+s.Out != 0 {
		t.Errorf("%+v", s)
	}
}

// TestSlowReader checks that a member is not blamed for a caller that does not read.
func TestSlowReader(t *testing.T) {
	content := make([]byte, 16<<20)
	a, _ := pair(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(content) }))
	resp, err := a.Do(t.Context(), "b", http.MethodGet, blobURI, nil, CallOptions{Silent: func() { t.Error("it is called silent") }})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	time.Sleep(suspectAfter * 3 / 2)
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != int64(len(content)) || a.Stats().Probes != 0 {
		t.Errorf("%d %v", n, err)
	}
}

func TestHopsCannotBeNested(t *testing.T) {
	a, b := pair(t, small)
	var err error
	b.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err = a.Do(r.Context(), "b", http.MethodGet, smallURI, nil, CallOptions{})
	})).ServeHTTP(httptest.NewRecorder(), signedHop(testSecret, nil))
	if resultOf(err) != Refused || b.Stats().Received != 1 {
		t.Error(err)
	}
}

func TestCallerLeaves(t *testing.T) {
	a, _ := pair(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := a.Do(ctx, "b", http.MethodGet, blobURI, nil, CallOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if s := a.Stats(); s.Hops[Canceled] != 1 || s.Suspect+s.Out+int(s.Probes) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestTooManyHops(t *testing.T) {
	a, _ := pair(t, small)
	m := a.find("b")
	for range hopsLimit {
		m.slots <- struct{}{}
	}
	if _, _, err := get(t, a, "b", smallURI); resultOf(err) != Busy {
		t.Error(err)
	}
	<-m.slots
	for range 3 { // each releases its slot
		if _, _, err := get(t, a, "b", smallURI); err != nil {
			t.Error(err)
		}
		if _, _, err := get(t, a, "b", blobURI); err != nil {
			t.Error(err)
		}
		for _, uri := range []string{":", "", "x", "http://c/v2/"} {
			if _, _, err := get(t, a, "b", uri); resultOf(err) != Unreachable {
				t.Errorf("%q: %v", uri, err)
			}
		}
	}
}

// TestConnectionsAreReused counts connections.
func TestConnectionsAreReused(t *testing.T) {
	b := newPeers(t, "b")
	var made atomic.Int64
	l := testutil.Listen(t)
	s := &http.Server{Handler: b.Handler(small), ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			made.Add(1)
		}
	}}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	a := newPeers(t, "a", Member{"b", l.Addr().String()})
	for range 20 {
		for _, uri := range []string{smallURI, blobURI} {
			if _, _, err := get(t, a, "b", uri); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := made.Load(); n > 3 {
		t.Errorf("%d connections for 40 hops", n)
	}
}

func BenchmarkHop(b *testing.B) {
	a, _ := pair(b, small)
	for b.Loop() {
		if _, _, err := get(b, a, "b", smallURI); err != nil {
			b.Fatal(err)
		}
	}
}
