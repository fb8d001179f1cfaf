// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/schema1"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestManifest checks that a manifest is passed on, and stored by distribution.
func TestManifest(t *testing.T) {
	s := start(t, patient, nil)
	d := s.g.image("v1")
	a := s.right(t, tag("v1"))
	if !a.Fresh() || a.Asked.IsZero() {
		t.Errorf("%+v", a)
	}
	s.right(t, byDigest(d))
	if heads, gets := s.g.count("HEAD v1"), s.g.count("GET v1")+s.g.count("GET "+d.String()); heads != 1 || gets != 1 {
		t.Errorf("%d HEADs, %d GETs", heads, gets)
	}
	for range 3 { // a tag that has not moved takes one HEAD
		s.right(t, tag("v1"))
	}
	moved := s.g.image("v1")
	s.right(t, tag("v1"))
	if heads, gets := s.g.count("HEAD v1"), s.g.count("GET v1")+s.g.count("GET "+moved.String()); heads != 5 || gets != 1 {
		t.Errorf("%d HEADs, %d GETs", heads, gets)
	}
	s = s.again(t, patient)
	s.g.Close()
	s.right(t, byDigest(d))
	s.right(t, byDigest(moved))
}

// TestTagMoves moves a tag between two requests for it.
func TestTagMoves(t *testing.T) {
	s := start(t, patient, nil)
	s.g.image("v1")
	var once sync.Once
	s.g.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
			once.Do(func() { s.g.image("v1") })
		}
		return false
	})
	a, err := s.Get(ctx, tag("v1"), "")
	if err != nil || digest.FromBytes(a.Body) != a.Digest {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestUpstreamWithoutHead uses an upstream without HEAD, or without useful headers in its response.
func TestUpstreamWithoutHead(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request){
		"405":  func(w http.ResponseWriter, _ *http.Request) { refuse(w, 405) },
		"404":  func(w http.ResponseWriter, _ *http.Request) { refuse(w, 404) },
		"bare": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, patient, nil)
			s.g.misbehave(on(http.MethodHead, "/manifests/", fault))
			s.g.image("v1")
			for range 2 {
				if a := s.right(t, tag("v1")); !a.Fresh() {
					t.Errorf("stale: %v", a.Stale)
				}
			}
			it := s.g.items["v1"]
			it.digest = "" // no response has the digest
			s.g.put("v2", it)
			if a, err := s.Get(ctx, tag("v2"), ""); err != nil || a.Digest != digest.FromBytes(it.content) {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
}

// schema1Manifest returns a signed schema 1 manifest, and its digest.
func schema1Manifest() (string, digest.Digest) {
	payload := `{"schemaVersion":1,"name":"some/image","tag":"v1","architecture":"amd64","fsLayers":[],"history":[]}`
	encode := base64.RawURLEncoding.EncodeToString
	body := strings.TrimSuffix(payload, "}")
	protected := encode(fmt.Appendf(nil, `{"formatLength":%d,"formatTail":%q,"time":"2026-11-30T00:00:00Z"}`, len(body), encode([]byte("}"))))
	return body + `,"signatures":[{"header":{},"signature":"x","protected":"` + protected + `"}]}`, digest.FromString(payload)
}

// TestManifestsThatDistributionCannotParse checks that such manifests are passed on unchanged, with one GET each.
func TestManifestsThatDistributionCannotParse(t *testing.T) {
	signedManifest, signedDigest := schema1Manifest()
	for _, it := range []item{
		{schema1.Signed, signedDigest, []byte(signedManifest)},
		{schema1.Plain + "; charset=utf-8", "", []byte(`{"schemaVersion":1,"name":"x","tag":"y"}`)},
		{"application/vnd.oci.artifact.manifest.v1+json", "", []byte(`{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","artifactType":"a/b"}`)},
		{"application/vnd.odd+json; x=\"", "", []byte(`{"a":1}`)},
		{"text/plain", "", []byte("no manifest at all")},
		{v1.MediaTypeImageManifest, "", []byte(`{"schemaVersion":3}`)},
	} {
		s := start(t, patient, nil)
		if it.digest == "" {
			it.digest = digest.FromBytes(it.content)
		}
		s.g.put("v1", it)
		s.g.put(it.digest.String(), it)
		if a := s.right(t, tag("v1")); !a.Fresh() {
			t.Errorf("%s: stale", it.mediaType)
		}
		if gets := s.g.count("GET v1") + s.g.count("GET "+it.digest.String()); gets != 1 {
			t.Errorf("%s: %d GETs", it.mediaType, gets)
		}
		s.right(t, byDigest(it.digest))
	}
}

// TestAccept checks that any type is requested, unless the client lists types.
func TestAccept(t *testing.T) {
	s := start(t, patient, nil)
	var seen atomic.Value
	s.g.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			seen.Store(strings.Join(r.Header["Accept"], ", "))
		}
		return false
	})
	all := strings.Join(acceptedTypes, ", ")
	for accept, want := range map[string]string{
		"": all + ", */*", "*/*": all + ", */*", "a/b, */*;q=0.1": all + ", a/b, */*;q=0.1", "application/json": "application/json",
	} {
		d := s.g.image("v1")
		if a, err := s.Get(ctx, tag("v1"), accept); err != nil || a.Digest != d {
			t.Errorf("%s: %+v, %v", accept, a, err)
		}
		if got := seen.Load().(string); got != want {
			t.Errorf("%s: asked for %s", accept, got)
		}
	}
}

// TestAcceptedTypes checks that a client that lists types gets the upstream's manifest for them, and that the tag does not
// change for others.
func TestAcceptedTypes(t *testing.T) {
	s := start(t, patient, nil)
	index := s.g.manifest("index", v1.MediaTypeImageIndex, `{"schemaVersion":2,"mediaType":"`+v1.MediaTypeImageIndex+`","manifests":[]}`)
	image := s.g.image("image")
	s.g.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		s.g.mu.Lock()
		defer s.g.mu.Unlock()
		s.g.items["v1"] = s.g.items["image"]
		if strings.Contains(strings.Join(r.Header["Accept"], ","), v1.MediaTypeImageIndex) {
			s.g.items["v1"] = s.g.items["index"]
		}
		return false
	})
	for range 2 {
		if a, err := s.Get(ctx, tag("v1"), v1.MediaTypeImageManifest); err != nil || a.Digest != image {
			t.Errorf("%+v, %v", a, err)
		}
		if a, err := s.Get(ctx, tag("v1"), ""); err != nil || a.Digest != index {
			t.Errorf("%+v, %v", a, err)
		}
	}
	if _, err := s.Get(ctx, tag("v1"), v1.MediaTypeImageManifest); err != nil {
		t.Error(err)
	}
	s.g.Close()
	if a, err := s.Get(ctx, tag("v1"), ""); err != nil || a.Digest != index || a.Fresh() {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestManifestOfAnotherDigest checks that a manifest with the wrong digest is not served.
func TestManifestOfAnotherDigest(t *testing.T) {
	s := start(t, patient, nil)
	d := s.g.image("v1")
	it := s.g.items["v1"]
	it.content = append(it.content, ' ')
	s.g.put(d.String(), it)
	isError(t, "by digest", s.ask(t, byDigest(d)), 502, "UPSTREAM_INVALID")
	isError(t, "by tag", s.ask(t, tag("v1")), 502, "UPSTREAM_INVALID")
	if n := s.value(t, "registry_cache_refused_total", "manifest", "digest"); n != 2 {
		t.Errorf("%v refused", n)
	}
	it.content = testutil.RandomBytes(manifestLimit + 1)
	s.g.put(d.String(), it)
	isError(t, "too long", s.ask(t, byDigest(d)), 502, "UPSTREAM_INVALID")
	s.g.misbehave(on(http.MethodGet, "/manifests/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("{"))
	}))
	isError(t, "cut", s.ask(t, byDigest(d)), 502, "UNAVAILABLE")
}

// TestStaleTag checks that the last known manifest is served, with the reason.
func TestStaleTag(t *testing.T) {
	s := start(t, patient, nil)
	d := s.g.image("v1")
	s.right(t, tag("v1"))
	for _, status := range []int{401, 403, 404, 429, 500, 503} {
		s.g.misbehave(func(w http.ResponseWriter, _ *http.Request) bool { refuse(w, status); return true })
		a := s.right(t, tag("v1"))
		if a.Fresh() || a.Stale.Upstream != status || a.Digest != d {
			t.Errorf("%d: %+v", status, a)
		}
		if a := s.right(t, byDigest(d)); !a.Fresh() {
			t.Error("a digest is never stale")
		}
		isError(t, "another tag", s.ask(t, tag("v2")), map[int]int{401: 503, 403: 403, 404: 404, 429: 429, 500: 502, 503: 503}[status],
			map[int]string{403: "DENIED", 404: "MANIFEST_UNKNOWN", 429: "TOOMANYREQUESTS"}[status]+map[bool]string{true: "UNAVAILABLE"}[status != 403 && status != 404 && status != 429])
	}
	s.g.misbehave(nil)
	if a := s.right(t, tag("v1")); !a.Fresh() {
		t.Error("stale although the upstream is back")
	}
	// A tag that has moved to an unavailable manifest keeps the old one.
	moved := s.g.image("v1")
	old := s.g.items[d.String()]
	s.g.misbehave(on(http.MethodGet, "/manifests/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 500) }))
	for range 2 {
		a, err := s.Get(ctx, tag("v1"), "")
		if err != nil || a.Fresh() || string(a.Body) != string(old.content) {
			t.Errorf("%+v, %v", a, err)
		}
	}
	s.g.misbehave(nil)
	if a := s.right(t, tag("v1")); a.Digest != moved {
		t.Error("not moved")
	}
	s = s.again(t, patient)
	s.g.Close()
	if a, err := s.Get(ctx, tag("v1"), ""); err != nil || a.Fresh() || a.Digest != moved || a.Stale.Upstream != 0 {
		t.Errorf("after a restart: %+v, %v", a, err)
	}
}

// TestWebPage checks that a web page with status 200 is not accepted as a manifest or list.
func TestWebPage(t *testing.T) {
	s := start(t, patient, nil)
	s.g.image("v1")
	s.right(t, tag("v1"))
	s.g.misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte("<html>maintenance</html>"))
		return true
	})
	if a := s.right(t, tag("v1")); a.Fresh() {
		t.Error("fresh")
	}
	for _, r := range []route.Request{tag("v2"), tags(""), referrers(s.g.items["v1"].digest, "")} {
		isError(t, r.Path(), s.ask(t, r), 502, "UPSTREAM_INVALID")
	}
	s.g.misbehave(nil)
	if a := s.right(t, tag("v1")); !a.Fresh() {
		t.Error("stale although the upstream is back")
	}
}

// TestHeadWithoutLength checks that a moved tag is detected without Content-Length, if the new manifest is already
// stored.
func TestHeadWithoutLength(t *testing.T) {
	s := start(t, patient, nil)
	s.g.misbehave(on(http.MethodHead, "/manifests/", func(w http.ResponseWriter, _ *http.Request) {
		s.g.mu.Lock()
		it := s.g.items["v1"]
		s.g.mu.Unlock()
		w.Header().Set("Content-Type", it.mediaType)
		w.Header().Set("Docker-Content-Digest", it.digest.String())
		_ = http.NewResponseController(w).Flush()
	}))
	s.g.image("v1")
	first := s.g.items["v1"]
	s.right(t, tag("v1"))
	s.g.image("v1")
	s.right(t, tag("v1"))
	s.g.put("v1", first)
	s.right(t, tag("v1"))
}
