// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// TestTokenEnds checks that a new token is requested after the old one was rejected.
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
	// The credential itself is revoked before it expires.
	gives(t, c, "s2")
	s.g.set(func() { s.g.token, s.g.secret = "t3", "s2" })
	isStale := s.right(t, tag("v1")).Stale
	if isStale == nil || isStale.Upstream != 401 || len(runs(c)) != 1 {
		t.Errorf("a new credential was fetched again: %v, %d runs", isStale, len(runs(c)))
	}
	s.credential.mu.Lock()
	s.credential.from = s.credential.from.Add(-2 * refusedAfter)
	s.credential.mu.Unlock()
	if a := s.right(t, tag("v1")); !a.Fresh() || len(runs(c)) != 2 {
		t.Errorf("stale: %v, %d runs", a.Stale, len(runs(c)))
	}
}

// TestGrant checks that a new permission takes effect with the next request, although the old token is still valid.
func TestGrant(t *testing.T) {
	s := start(t, patient, helperFor(t, "s1"))
	s.g.set(func() { s.g.login = true })
	s.g.image("v1")
	s.g.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "Bearer t1" {
			return false
		}
		refuse(w, 403)
		return true
	})
	isError(t, "before", s.ask(t, tag("v1")), 403, "DENIED")
	s.g.set(func() { s.g.token = "t2" })
	s.right(t, tag("v1"))
}

// TestTokenAnswers checks how the token server's statuses are translated for clients.
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

// TestTokenHangs checks that concurrent requests share one token request, which ends at the stall limit.
func TestTokenHangs(t *testing.T) {
	limits := patient
	limits.Stall = soon
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

// TestTokensAreBounded checks that the number of cached tokens is limited.
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
