// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/status"
)

// kinds are all that can be asked for, and what it is when the upstream does not know it.
var kinds = map[string]string{
	"manifests/sha256:" + strings.Repeat("a", 64): "MANIFEST_UNKNOWN",
	"manifests/v1": "MANIFEST_UNKNOWN",
	"blobs/sha256:" + strings.Repeat("a", 64): "BLOB_UNKNOWN",
	"tags/list":     "NAME_UNKNOWN",
	"tags/list?n=2": "NAME_UNKNOWN",
}

// always answers in the upstream's place, with an error of its own.
func always(w http.ResponseWriter, status int, header ...string) bool {
	w.Header().Del("Content-Length")
	for i := 0; i+1 < len(header); i += 2 {
		w.Header().Set(header[i], header[i+1])
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(`{"errors":[{"code":"WHATEVER","message":"of the upstream"}]}`))
	return true
}

// failed fails unless a GET and a HEAD get that status, and the GET that one error; it returns the GET's answer.
func failed(t *testing.T, url string, status int, code string) answer {
	t.Helper()
	if a := ask(t, http.MethodHead, url); a.StatusCode != status {
		t.Errorf("HEAD %s: %v, want %d", url, a, status)
	}
	a := ask(t, http.MethodGet, url)
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &body); err != nil || len(body.Errors) != 1 || body.Errors[0].Message == "" {
		t.Errorf("GET %s: no error of the specification: %s", url, a.body)
	} else if a.StatusCode != status || body.Errors[0].Code != code {
		t.Errorf("GET %s: %v, %s, want %d %s", url, a, a.body, status, code)
	}
	if got := a.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("GET %s: Content-Type %q", url, got)
	}
	if again := a.Header.Get("Retry-After"); (again != "") != (status == 429 || status > 500) {
		t.Errorf("GET %s: %d with Retry-After %q", url, status, again)
	}
	return a
}

func TestUpstreamAnswers(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	for _, test := range []struct {
		upstream, status int
		code             string
	}{
		{400, 404, ""}, {401, 503, "UNAVAILABLE"}, {403, 403, "DENIED"}, {404, 404, ""}, {429, 429, "TOOMANYREQUESTS"},
		{500, 502, "UNAVAILABLE"}, {502, 502, "UNAVAILABLE"}, {503, 503, "UNAVAILABLE"}, {504, 502, "UNAVAILABLE"},
	} {
		up.misbehave(func(w http.ResponseWriter, _ *http.Request, _ []byte) bool { return always(w, test.upstream) })
		for what, unknown := range kinds {
			code := test.code
			if code == "" {
				code = unknown
			}
			a := failed(t, c.URL+"/v2/some/image/"+what, test.status, code)
			if bytes.Contains(a.body, []byte("of the upstream")) {
				t.Errorf("the upstream's own text: %s", a.body)
			}
		}
	}
	if left := files(t, c.root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestUpstreamSaysWhenToAskAgain(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	for given, want := range map[string]string{"17": "17", "Wed, 21 Oct 2026 07:28:00 GMT": "2", "-1": "2", "": "2"} {
		up.misbehave(func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			return always(w, 429, "Retry-After", given)
		})
		if a := c.manifest("v1"); a.StatusCode != 429 || a.Header.Get("Retry-After") != want {
			t.Errorf("%q: %v with %q, want %q", given, a, a.Header.Get("Retry-After"), want)
		}
	}
}

func TestUpstreamIsDown(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	up.Close()
	for what := range kinds {
		failed(t, c.URL+"/v2/some/image/"+what, 502, "UNAVAILABLE")
	}
}

// TestUpstreamHangs must be over in the time in which an answer has to begin, not in several times as much.
func TestUpstreamHangs(t *testing.T) {
	for what := range kinds {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			up := newUpstream(t)
			c := newCache(t, up, t.TempDir(), ample)
			up.misbehave(func(_ http.ResponseWriter, r *http.Request, _ []byte) bool {
				<-r.Context().Done()
				return true
			})
			begun := time.Now()
			a := ask(t, http.MethodGet, c.URL+"/v2/some/image/"+what)
			again := a.Header.Get("Retry-After")
			if a.StatusCode != http.StatusGatewayTimeout || !bytes.Contains(a.body, []byte("UNAVAILABLE")) || again == "" {
				t.Errorf("%v: %s", a, a.body)
			}
			if took := time.Since(begun); took > hangs*3/2+time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// TestSlowDownload has a blob's time to begin, although its path names no blob.
func TestSlowDownload(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	d := up.blob(1000)
	up.misbehave(func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if strings.Contains(r.URL.Path, "/blobs/") && r.Method == http.MethodGet {
			http.Redirect(w, r, "/downloads/"+d.String(), http.StatusFound)
			return true
		}
		if strings.HasPrefix(r.URL.Path, "/downloads/") {
			time.Sleep(hangs + hangs/4)
		}
		return false
	})
	right(t, c.blob(d), d)
}

// TestStaleTag is served as it was known last, and says so; a fresh one does not.
func TestStaleTag(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	manifest, _ := up.image("v1", 100)
	isStale := func(a answer) bool {
		t.Helper()
		warned, said := a.Header.Get("Warning") == status.Stale, strings.HasSuffix(a.Header.Get("Cache-Status"), "detail=stale")
		if warned != said {
			t.Errorf("Warning %q, Cache-Status %q", a.Header.Get("Warning"), a.Header.Get("Cache-Status"))
		}
		return said
	}
	for _, upstream := range []int{200, 500, 200, 403, 404, 429} {
		up.misbehave(func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			return upstream != 200 && always(w, upstream)
		})
		a := c.manifest("v1")
		right(t, a, manifest)
		if isStale(a) != (upstream != 200) {
			t.Errorf("upstream %d: %v", upstream, a.Header)
		}
		unchanged := c.manifest("v1", "If-None-Match", a.Header.Get("ETag"))
		if unchanged.StatusCode != http.StatusNotModified || isStale(unchanged) != (upstream != 200) {
			t.Errorf("upstream %d: %v, %v", upstream, unchanged, unchanged.Header)
		}
		if a := c.manifest(manifest.String()); a.Header.Get("Warning") != "" {
			t.Errorf("a digest is stale: %v", a.Header)
		}
	}
}

// TestStartWhileUpstreamHangs: what is stored is served although the challenge was never seen; who comes meanwhile does not
// wait in turn.
func TestStartWhileUpstreamHangs(t *testing.T) {
	up := newUpstream(t)
	root := t.TempDir()
	before := newCache(t, up, root, ample)
	const images = 6
	manifests, layers := [images]digest.Digest{}, [images]digest.Digest{}
	for i := range images {
		manifests[i], layers[i] = up.image(fmt.Sprint("v", i), 1000+i)
		before.manifest(fmt.Sprint("v", i))
		before.blob(layers[i])
	}
	before.Close()
	up.silent, up.pings = true, 0

	// With a password in its place the registry asks for the challenge at its start, and ends.
	config := strings.Replace(yaml(up.URL, root, "", ample), "proxy: {", "proxy: {exec: {command: /bin/false, lifetime: 0s}, ", 1)
	c := &cache{t: t, root: root, Server: startConfig(t, config)}
	begun := time.Now()
	var all sync.WaitGroup
	for i := range images {
		all.Add(1)
		go func() {
			defer all.Done()
			a := c.manifest(fmt.Sprint("v", i))
			right(t, a, manifests[i])
			if a.Header.Get("Warning") != status.Stale {
				t.Errorf("no Warning: %v", a.Header)
			}
			right(t, c.blob(layers[i]), layers[i])
		}()
	}
	all.Wait()
	if took := time.Since(begun); took > hangs/2+time.Second {
		t.Errorf("took %v", took)
	}
	for _, what := range []string{"manifests/other", "tags/list"} {
		if a := ask(t, http.MethodGet, c.URL+"/v2/some/image/"+what); a.StatusCode != 504 {
			t.Errorf("%s: %v", what, a)
		}
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	if up.pings != 1 {
		t.Errorf("asked %d times for the challenge", up.pings)
	}
}

// TestLogSaysWhy looks for what a client is not told.
func TestLogSaysWhy(t *testing.T) {
	up := newUpstream(t)
	url, stop := process(t, up, t.TempDir(), ample)
	up.misbehave(func(w http.ResponseWriter, _ *http.Request, _ []byte) bool { return always(w, 403) })
	hex := strings.Repeat("a", 64)
	for _, reference := range []string{"v1", "sha256:" + hex} {
		if a := ask(t, http.MethodGet, url+"manifests/"+reference); a.StatusCode != 403 {
			t.Errorf("%v", a)
		}
	}
	var said, own bool // by us of the tag, by the registry itself of the digest
	for line := range strings.Lines(stop()) {
		said = said || strings.Contains(line, "manifests/v1") && strings.Contains(line, "WHATEVER: of the upstream")
		own = own || strings.Contains(line, "err.code=unknown") && strings.Contains(line, "of the upstream")
	}
	if !said || !own {
		t.Errorf("said %v, the registry's own %v", said, own)
	}
}

// TestErrorsOfThisCache are no upstream's.
func TestErrorsOfThisCache(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	up.misbehave(func(w http.ResponseWriter, _ *http.Request, _ []byte) bool { return always(w, 403) })
	hex := strings.Repeat("a", 64)
	for what, want := range map[string]struct {
		status int
		code   string
	}{
		"some/image/manifests/sha256:totallywrong":            {400, "DIGEST_INVALID"},
		"some/image/manifests/sha256:" + hex[1:]:              {400, "DIGEST_INVALID"},
		"some/image/manifests/md5:" + hex:                     {400, "DIGEST_INVALID"},
		"some/image/manifests/sha256:" + strings.ToUpper(hex): {400, "DIGEST_INVALID"},
		"some/image/blobs/sha256:totallywrong":                {400, "DIGEST_INVALID"},
		"some/image/blobs/nothing":                            {400, "DIGEST_INVALID"},
		"some/image/manifests/.wrong":                         {404, "MANIFEST_UNKNOWN"},
		"some/image/referrers/sha256:" + hex:                  {404, "UNSUPPORTED"},
		"some/image/other":                                    {404, "UNSUPPORTED"},
		"_catalog":                                            {404, "UNSUPPORTED"},
		"Some/manifests/v1":                                   {404, "MANIFEST_UNKNOWN"},
	} {
		failed(t, c.URL+"/v2/"+what, want.status, want.code)
	}
	for _, name := range []string{"v1", hex} {
		if n := up.asked(name); n != 0 {
			t.Errorf("the upstream was asked %d times for %s", n, name)
		}
	}
	if a := ask(t, http.MethodGet, c.URL+"/v2/"); a.StatusCode != 200 {
		t.Errorf("/v2/: %v", a)
	}
}

// TestStoreDoesNotWork passes on what the upstream has.
func TestStoreDoesNotWork(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	d, _ := up.image("v1", 10)
	right(t, c.manifest("v1"), d)
	link := filepath.Join(c.root, "docker/registry/v2/repositories/some/image/_manifests/revisions/sha256", d.Encoded(), "link")
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	// A folder in its place, which can neither be read nor written over.
	if err := os.MkdirAll(filepath.Join(link, "not empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	right(t, c.manifest(d.String()), d)
	right(t, c.manifest("v1"), d)
}

func TestPushIsRefused(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	d, _ := up.image("v1", 10)
	right(t, c.manifest("v1"), d)
	before := files(t, c.root)
	for _, push := range [][2]string{
		{"POST", "blobs/uploads/"}, {"PATCH", "blobs/uploads/1"}, {"PUT", "blobs/uploads/1"}, {"PUT", "manifests/v1"},
		{"DELETE", "manifests/v1"}, {"DELETE", "manifests/" + d.String()}, {"DELETE", "blobs/" + d.String()},
	} {
		a := ask(t, push[0], c.URL+"/v2/some/image/"+push[1])
		if a.StatusCode != 405 || !bytes.Contains(a.body, []byte(`"UNSUPPORTED"`)) || a.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%v: %v %s", push, a, a.body)
		}
	}
	if after := files(t, c.root); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("before %v, after %v", before, after)
	}
}

// lists makes an upstream serve its tags, a page at a time, as they come and with what a page may be: empty, with more to come.
func (up *upstream) lists(tags ...string) {
	up.misbehave(func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if filepath.Base(r.URL.Path) != "list" {
			return false
		}
		var n int
		_, _ = fmt.Sscan(r.URL.Query().Get("n"), &n)
		left := tags
		for i, tag := range tags {
			if tag == r.URL.Query().Get("last") {
				left = tags[i+1:]
			}
		}
		w.Header().Del("Content-Length")
		if n > 0 && len(left) > n {
			w.Header().Set("Link", fmt.Sprintf(`</v2/some/image/tags/list?n=%d&last=%s>; rel="next"`, n, left[n-1]))
			left = left[:n]
		}
		if len(left) == 0 {
			w.Header().Set("Link", `</v2/some/image/tags/list?n=9&last=x>; rel="next"`)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"name": "some/image", "tags": left})
		return true
	})
}

func TestTagsList(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	up.lists("a", "b", "c")
	for query, want := range map[string][2]string{
		"":            {`["a","b","c"]`, ""},
		"?n=9":        {`["a","b","c"]`, ""},
		"?n=2":        {`["a","b"]`, `</v2/some/image/tags/list?last=b&n=2>; rel="next"`},
		"?n=2&last=b": {`["c"]`, ""},
		"?n=2&last=c": {`[]`, ""}, // the upstream's page is empty and has a next one
		"?n=0":        {`[]`, ""},
	} {
		a := ask(t, http.MethodGet, c.URL+"/v2/some/image/tags/list"+query)
		if a.StatusCode != 200 || !bytes.Contains(a.body, []byte(want[0])) || a.Header.Get("Link") != want[1] {
			t.Errorf("%s: %v %s Link %q", query, a, a.body, a.Header.Get("Link"))
		}
		head := ask(t, http.MethodHead, c.URL+"/v2/some/image/tags/list"+query)
		if head.StatusCode != 200 || head.ContentLength != a.ContentLength || head.Header.Get("Link") != want[1] {
			t.Errorf("HEAD %s: %v, GET %v", query, head, a)
		}
	}
}

// TestTagsListIsTheUpstreams even where this replica knows some of the tags.
func TestTagsListIsTheUpstreams(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	d, _ := up.image("v1", 10)
	right(t, c.manifest("v1"), d)
	for status, want := range map[int]int{403: 403, 404: 404, 429: 429, 503: 503} {
		up.misbehave(func(w http.ResponseWriter, _ *http.Request, _ []byte) bool { return always(w, status) })
		if a := ask(t, http.MethodGet, c.URL+"/v2/some/image/tags/list"); a.StatusCode != want {
			t.Errorf("%d: %v %s", status, a, a.body)
		}
		right(t, c.manifest("v1"), d) // what is pulled by tag goes on
	}
}

// TestCredential has an upstream that gives tokens to whom it knows.
func TestCredential(t *testing.T) {
	for _, test := range []struct {
		name, proxy   string
		token, pull   int // the upstream's answers for a token, and with it
		status        int
		anonymousOnly bool
	}{
		{"refused", "username: u, password: p", 401, 200, 503, false},
		{"denied", "username: u, password: p", 403, 200, 403, false},
		{"quota", "username: u, password: p", 429, 200, 429, false},
		{"token refused", "username: u, password: p", 200, 401, 503, false},
		{"token denied", "username: u, password: p", 200, 403, 403, false},
		{"the helper gives none", "exec: {command: /bin/false, lifetime: 0s}", 200, 403, 503, true},
		{"none is meant", "", 200, 403, 403, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			up := newUpstream(t)
			d, _ := up.image("v1", 10)
			up.tokens = func(w http.ResponseWriter, r *http.Request) {
				_, _, known := r.BasicAuth()
				if known == test.anonymousOnly {
					t.Errorf("credential shown: %v", known)
				}
				if test.token != 200 {
					always(w, test.token)
					return
				}
				_, _ = w.Write([]byte(`{"token":"t","expires_in":300}`))
			}
			up.misbehave(func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
				return test.pull != 200 && always(w, test.pull)
			})
			config := strings.Replace(yaml(up.URL, t.TempDir(), "", ample), "proxy: {", "proxy: {"+test.proxy+", ", 1)
			config = strings.Replace(config, "{, ", "{", 1)
			url := startConfig(t, config).URL + "/v2/some/image/"
			for _, what := range []string{"manifests/v1", "manifests/" + d.String(), "blobs/" + d.String(), "tags/list"} {
				a := ask(t, http.MethodGet, url+what)
				if a.StatusCode != test.status || !bytes.Contains(a.body, []byte(`"errors"`)) {
					t.Errorf("%s: %v %s", what, a, a.body)
				}
			}
		})
	}
}

// TestSignatureTag pulls what is found under the tag that stands for a digest's referrers.
func TestSignatureTag(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	subject, _ := up.image("v1", 10)
	signature := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"application/vnd.example.signature",
"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],
"subject":{"mediaType":%q,"digest":%q,"size":1}}`, manifestType, digest.FromString("{}"), manifestType, subject)
	tag := "sha256-" + subject.Encoded() + ".sig"
	failed(t, c.URL+"/v2/some/image/manifests/"+tag, 404, "MANIFEST_UNKNOWN")
	up.put(tag, signature)
	up.put(digest.FromBytes(signature).String(), signature)
	right(t, c.manifest(tag), digest.FromBytes(signature))
}
