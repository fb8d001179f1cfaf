// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker-credential-helpers/credentials"

	"pullthrough.registry_cache/docker/registry/internal/config"
)

// TestCredential runs the helper once and asks for one token for each repository, however many clients there are.
func TestCredential(t *testing.T) {
	c := helperFor(t, "s1")
	s := start(t, patient, c)
	s.g.set(func() { s.g.login = true })
	s.g.image("v1")
	d, content := s.g.blob(mib)
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() { s.right(t, tag("v1")) })
	}
	clients.Go(func() { s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, -1), d, content) })
	clients.Wait()
	other := tag("v1")
	other.Repository = "other/image"
	s.right(t, other)
	if got := runs(c); len(got) != 1 || got[0] != s.g.host() {
		t.Errorf("runs for %q", got)
	}
	if s.g.grants != 2 {
		t.Errorf("%d tokens", s.g.grants)
	}
	if n := s.value(t, "registry_cache_credential_failures_total"); n != 0 {
		t.Errorf("%v failures", n)
	}
}

// TestBasic shows the credential itself.
func TestBasic(t *testing.T) {
	c := helperFor(t, "s1")
	s := start(t, patient, c)
	s.g.set(func() { s.g.login, s.g.basic = true, true })
	s.g.image("v1")
	s.right(t, tag("v1"))
	gives(t, c, "FAIL")
	n := start(t, patient, c)
	n.g.set(func() { n.g.login, n.g.basic = true, true })
	isError(t, "no credential", n.ask(t, tag("v1")), 503, "UNAVAILABLE")
}

// TestTokenEnds asks for a new one.
func TestTokenEnds(t *testing.T) {
	c := helperFor(t, "s1")
	s := start(t, patient, c)
	s.g.set(func() { s.g.login = true })
	s.g.image("v1")
	s.right(t, tag("v1"))
	s.g.set(func() { s.g.token = "t2" })
	if a := s.right(t, tag("v1")); !a.Fresh() {
		t.Errorf("stale: %v", a.Stale)
	}
	// The credential itself ends before its time.
	gives(t, c, "s2")
	s.g.set(func() { s.g.token, s.g.secret = "t3", "s2" })
	isStale := s.right(t, tag("v1")).Stale
	if isStale == nil || isStale.Upstream != 401 || len(runs(c)) != 1 {
		t.Errorf("a credential that is new is not fetched again: %v, %d runs", isStale, len(runs(c)))
	}
	s.credential.mu.Lock()
	s.credential.from = s.credential.from.Add(-2 * refusedAfter)
	s.credential.mu.Unlock()
	if a := s.right(t, tag("v1")); !a.Fresh() || len(runs(c)) != 2 {
		t.Errorf("stale: %v, %d runs", a.Stale, len(runs(c)))
	}
}

// TestTokenAnswers has what the token server's statuses mean for clients.
func TestTokenAnswers(t *testing.T) {
	for _, test := range []struct {
		token, status int
		code          string
	}{{401, 503, "UNAVAILABLE"}, {403, 403, "DENIED"}, {429, 429, "TOOMANYREQUESTS"}, {500, 502, "UNAVAILABLE"}, {503, 503, "UNAVAILABLE"}} {
		s := start(t, patient, helperFor(t, "s1"))
		s.g.set(func() { s.g.login = true })
		s.g.misbehave(on("", "/token", func(w http.ResponseWriter, _ *http.Request) { refuse(w, test.token, "Retry-After", "7") }))
		for _, r := range all {
			e := isError(t, fmt.Sprint(test.token, " for ", r.URI()), s.ask(t, r), test.status, test.code)
			if e.RetryAfter != 0 && e.RetryAfter != 7*time.Second {
				t.Errorf("%s", e.RetryAfter)
			}
		}
	}
}

// TestTokenHangs is asked for once by all, and ends by the stall limit.
func TestTokenHangs(t *testing.T) {
	limits := patient
	limits.Stall = 10 * briefly
	s := start(t, limits, helperFor(t, "s1"))
	s.g.set(func() { s.g.login = true })
	s.g.misbehave(on("", "/token", hang))
	s.late(t, tag("v1"))
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() { isError(t, "token", s.ask(t, tag("v1")), 504, "UNAVAILABLE") })
	}
	clients.Wait()
	if n := s.g.count("GET token"); n > 2 {
		t.Errorf("%d requests for a token", n)
	}
}

// TestHelperHangs holds nobody who leaves, runs once for all, and ends at its deadline (row 14 of the issue). The failure is
// then known for a while.
func TestHelperHangs(t *testing.T) {
	c := helperFor(t, "HANG")
	c.Timeout = time.Second
	s := start(t, patient, c)
	s.g.set(func() { s.g.login = true })
	s.g.image("v1")
	var clients sync.WaitGroup
	for i := range 100 {
		clients.Go(func() {
			if r := tag(fmt.Sprint("v", i%10)); i%2 == 0 {
				isError(t, "hangs", s.ask(t, r), 503, "UNAVAILABLE")
			} else {
				s.late(t, r)
			}
		})
	}
	clients.Wait()
	isError(t, "failed", s.ask(t, tag("v1")), 503, "UNAVAILABLE")
	if got := runs(c); len(got) != 1 {
		t.Errorf("%d runs while the failure is known", len(got))
	}
	gives(t, c, "s1")
	s.credential.mu.Lock()
	s.credential.failed, s.credential.config.Timeout = time.Now(), time.Minute
	s.credential.mu.Unlock()
	s.right(t, tag("v1"))
}

// TestHelperFails goes on without a credential, for what is public; nothing that was given to nobody stays.
func TestHelperFails(t *testing.T) {
	for _, how := range []string{"FAIL", "LONG", ""} {
		c := helperFor(t, how)
		s := start(t, patient, c)
		s.g.set(func() { s.g.login, s.g.public = true, true })
		s.g.image("v1")
		s.right(t, tag("v1"))
		s.g.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Authorization") == "Bearer t1" {
				refuse(w, 403)
				return true
			}
			return false
		})
		if e := isError(t, how, s.ask(t, tag("v2")), 503, "UNAVAILABLE"); e.Upstream != 403 {
			t.Errorf("%#v", e)
		}
		if n := s.value(t, "registry_cache_credential_failures_total"); n == 0 {
			t.Error("not counted")
		}
		if got := runs(c); len(got) != 1 {
			t.Errorf("%q: %d runs", how, len(got))
		}
		s.g.misbehave(nil)
		gives(t, c, "s1")
		s.g.set(func() { s.g.public = false; s.g.token = "t2" })
		s.credential.mu.Lock()
		s.credential.failed = time.Now()
		s.credential.mu.Unlock()
		s.right(t, tag("v1"))
	}
}

// TestHelperIsMissing is a failure of the helper.
func TestHelperIsMissing(t *testing.T) {
	s := start(t, patient, &config.Credential{Helper: "docker-credential-that-is-nowhere", Lifetime: time.Hour, Timeout: time.Second})
	s.g.set(func() { s.g.login = true })
	isError(t, "missing", s.ask(t, tag("v1")), 503, "UNAVAILABLE")
}

// TestHelperGroup ends with what the helper has started, although that holds its output open.
func TestHelperGroup(t *testing.T) {
	path := t.TempDir() + "/helper"
	if err := os.WriteFile(path, []byte("#!/bin/sh\nsleep 3600 &\necho $! >\"$0.pid\"\nwait\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := start(t, patient, &config.Credential{Helper: path, Lifetime: time.Hour, Timeout: time.Second})
	s.g.set(func() { s.g.login = true })
	isError(t, "hangs", s.ask(t, tag("v1")), 503, "UNAVAILABLE")
	var pid int
	content, err := os.ReadFile(path + ".pid")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Sscan(string(content), &pid)
	until(t, "the end of what it has started", func() bool {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || len(state) == 0 || zombie(string(state))
	})
}

func zombie(stat string) bool {
	var pid int
	var name, state string
	_, err := fmt.Sscan(stat, &pid, &name, &state)
	return err == nil && state == "Z"
}

// TestRealm shows the credential to the upstream's own domain only.
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
		if mayKnow(registry, realm) != test.may {
			t.Errorf("%+v", test)
		}
	}
	c := helperFor(t, "s1")
	s := start(t, patient, c)
	s.g.set(func() { s.g.login, s.g.realm = true, "registry.evil.example" })
	isError(t, "realm", s.ask(t, tag("v1")), 502, "UPSTREAM_INVALID")
}

// TestTokensAreBounded by number.
func TestTokensAreBounded(t *testing.T) {
	s := start(t, patient, nil)
	s.g.set(func() { s.g.login, s.g.public = true, true })
	s.g.image("v1")
	r := tag("v1")
	s.right(t, r)
	for i := range 2 * tokensLimit {
		s.tokens.held.Add(fmt.Sprint(i), "x")
	}
	if n := s.tokens.held.Len(); n != tokensLimit {
		t.Errorf("%d tokens", n)
	}
	s.right(t, r)
}

// TestRefreshToken follows docker's protocol.
func TestRefreshToken(t *testing.T) {
	if got := asCredential(&credentials.Credentials{Username: "<token>", Secret: "x"}); got.RefreshToken != "x" || got.Password != "" {
		t.Errorf("%+v", got)
	}
}
