// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

// TestStall checks that stalled requests end. A tag is served as last known.
func TestStall(t *testing.T) {
	limits := patient
	limits.Stall = soon
	s := start(t, limits, nil)
	for _, method := range []string{"HEAD", "GET"} {
		s.g.misbehave(on(method, "/manifests/", hang))
		s.g.image("v1")
		isError(t, "a manifest", s.ask(t, tag("v1")), 504, "UNAVAILABLE")
	}
	s.g.misbehave(on("GET", "/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("{"))
		_ = http.NewResponseController(w).Flush()
		hang(w, r)
	}))
	isError(t, "half a manifest", s.ask(t, byDigest(nowhere)), 504, "UNAVAILABLE")
	isError(t, "half a list", s.ask(t, tags("")), 504, "UNAVAILABLE")
	s.g.misbehave(nil)
	s.right(t, tag("v1"))
	s.g.misbehave(on("", "/manifests/", hang))
	if a := s.right(t, tag("v1")); a.Fresh() || !a.Stale.Timeout() || a.Stale.Upstream != 0 {
		t.Errorf("%+v", a)
	}
}

// TestSwitchedProtocol uses an upstream that responds with 101 and keeps the connection open. No limit would end a read
// of it.
func TestSwitchedProtocol(t *testing.T) {
	s := start(t, patient, nil)
	s.g.misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		t.Cleanup(func() { _ = c.Close() })
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		return true
	})
	d, _ := s.g.blob(10)
	isError(t, "a blob", s.fetch(t, s.Upstream, d, -1).err, 502, "UPSTREAM_INVALID")
	for _, r := range []route.Request{tag("v1"), byDigest(nowhere), tags("")} {
		isError(t, "another", s.ask(t, r), 502, "UPSTREAM_INVALID")
	}
}

// TestFetchRedirect checks that the credential is sent only to the upstream, and that all requests ask for the identity
// encoding.
func TestFetchRedirect(t *testing.T) {
	s := start(t, patient, helperFor(t, "s1"))
	s.g.set(func() { s.g.login = true })
	elsewhere := newRegistry(t)
	d, content := s.g.blob(mib) // the handler below redirects to the current d
	elsewhere.put(d.String(), item{"application/octet-stream", "", content})
	elsewhere.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("header %v", r.Header)
		}
		return false
	})
	s.g.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Authorization") != "" {
			http.Redirect(w, r, elsewhere.URL+"/elsewhere/"+d.String(), http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, -1), d, content)
	if n := elsewhere.count("GET " + d.String()); n != 1 {
		t.Errorf("%d downloads", n)
	}
	// The same holds if the redirect target requests a credential.
	elsewhere.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+elsewhere.URL+`/token",service="test"`)
		refuse(w, 401)
		return true
	})
	d, _ = s.g.blob(10)
	isError(t, "a challenge elsewhere", s.fetch(t, s.Upstream, d, -1).err, 503, "UNAVAILABLE")
	if n := elsewhere.count("GET token"); n != 0 {
		t.Errorf("%d requests for a token elsewhere", n)
	}
	// Artifact Registry redirects to its own host, outside of the API.
	d, content = s.g.blob(mib)
	s.g.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		switch authorization := r.Header.Get("Authorization"); {
		case strings.HasPrefix(r.URL.Path, "/elsewhere/") && authorization != "":
			t.Errorf("shown to %s", r.URL)
		case strings.Contains(r.URL.Path, "/blobs/") && authorization != "":
			http.Redirect(w, r, "/elsewhere/"+d.String(), http.StatusFound)
			return true
		}
		return false
	})
	s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, -1), d, content)
	s.g.misbehave(on("", "/blobs/", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }))
	d, _ = s.g.blob(10)
	isError(t, "a ring of redirects", s.fetch(t, s.Upstream, d, -1).err, 502, "UPSTREAM_INVALID")
	s.g.misbehave(on("", "/blobs/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	}))
	isError(t, "a file", s.fetch(t, s.Upstream, d, -1).err, 502, "UPSTREAM_INVALID")
}

// TestRealm checks that the credential is sent only to the upstream's domain.
func TestRealm(t *testing.T) {
	for _, test := range []struct {
		registry, realm string
		may             bool
	}{
		{"https://us-central1-docker.pkg.dev", "https://us-central1-docker.pkg.dev/v2/token", true},
		{"https://registry-1.docker.io", "https://auth.docker.io/token", true},
		{"https://registry.gitlab.com", "https://gitlab.com/jwt/auth", true},
		{"https://ghcr.io", "https://evil.example/token", false},
		{"https://a.co.uk", "https://b.co.uk/token", false},
		{"https://10.0.0.1", "https://10.0.0.2/token", false},
		{"http://127.0.0.1:1", "http://127.0.0.1:2/token", true},
		{"http://localhost", "http://other/token", false},
	} {
		registry, _ := url.Parse(test.registry)
		realm, _ := url.Parse(test.realm)
		if maySendCredential(registry, realm) != test.may {
			t.Errorf("%+v", test)
		}
	}
	c := helperFor(t, "s1")
	s := start(t, patient, c)
	s.g.set(func() { s.g.login, s.g.realm = true, "registry.evil.example" })
	isError(t, "realm", s.ask(t, tag("v1")), 502, "UPSTREAM_INVALID")
}
