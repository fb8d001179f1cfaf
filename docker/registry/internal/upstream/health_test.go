// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestSlowTag checks that a slow tag does not affect other requests.
func TestSlowTag(t *testing.T) {
	limits := patient
	limits.Challenge = soon
	s := start(t, limits, nil)
	d := s.g.image("slow")
	s.g.image("other")
	s.right(t, tag("slow"))
	s.g.misbehave(on("", "/manifests/slow", hang))
	var slow sync.WaitGroup
	slow.Go(func() { s.late(t, tag("slow")) })
	testutil.Eventually(t, "the question", func() bool { return s.g.count("HEAD slow") == 2 })
	for range 3 {
		for _, r := range []route.Request{tag("other"), byDigest(d)} {
			if a := s.right(t, r); !a.Fresh() {
				t.Errorf("stale: %v", a.Stale)
			}
		}
	}
	slow.Wait()
	if s.health.outage() != nil {
		t.Error("the upstream is down because of one tag")
	}
	if s.g.count("GET v2") > 1 {
		t.Errorf("%d challenges", s.g.count("GET v2"))
	}
}

// TestDown checks that refused connections are reported at once, and remembered.
func TestDown(t *testing.T) {
	s := start(t, patient, nil)
	d := s.g.image("v1")
	s.right(t, tag("v1"))
	s.g.Close()
	for _, r := range all {
		if e := isError(t, r.URI(), s.ask(t, r), 502, "UNAVAILABLE"); e.Upstream != 0 {
			t.Errorf("%#v", e)
		}
	}
	if n := s.value(t, "registry_cache_upstream_requests_total", "unreachable"); n != 2 { // one request, one challenge
		t.Errorf("%v requests", n)
	}
	if s.right(t, byDigest(d)); s.right(t, tag("v1")).Fresh() || s.value(t, "registry_cache_upstream_out") != 1 {
		t.Error("fresh")
	}
}

// TestSilent uses an upstream that accepts connections, but does not respond. Concurrent requests wait for one
// challenge, and later ones fail at once for some time. The outage ends with the first response.
func TestSilent(t *testing.T) {
	limits := patient
	limits.Challenge = soon
	s := start(t, limits, nil)
	s.g.image("v1")
	s.right(t, tag("v1"))
	s.g.misbehave(on("", "", hang))
	var clients sync.WaitGroup
	begun := time.Now()
	for i := range 50 {
		clients.Go(func() {
			if i%2 == 0 {
				if a := s.right(t, tag("v1")); a.Fresh() || a.Stale.Status != 504 {
					t.Errorf("%+v", a)
				}
				return
			}
			isError(t, "unknown", s.ask(t, tag(fmt.Sprint("w", i))), 504, "UNAVAILABLE")
		})
	}
	clients.Wait()
	if took := time.Since(begun); took > patient.Stall/2 {
		t.Errorf("took %s", took)
	}
	if n := s.g.count("GET v2"); n > 1 {
		t.Errorf("%d challenges", n)
	}
	isError(t, "blob", s.ask(t, blob(nowhere)), 504, "UNAVAILABLE")
	s.g.misbehave(nil)
	if s.right(t, tag("v1")).Fresh() {
		t.Error("asked although it was down a moment ago")
	}
	s.health.mu.Lock()
	s.health.until = time.Now()
	s.health.mu.Unlock()
	testutil.Eventually(t, "fresh", func() bool { return s.right(t, tag("v1")).Fresh() })
	if s.value(t, "registry_cache_upstream_out") != 0 {
		t.Error("still out")
	}
}

// TestChallengeShowsUpstreamIsUp checks that a slow request is waited for if the challenge shows that the upstream is up.
func TestChallengeShowsUpstreamIsUp(t *testing.T) {
	limits := patient
	limits.Challenge = soon
	s := start(t, limits, nil)
	s.g.image("v1")
	s.g.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/" {
			refuse(w, 503) // any status is a response
			return true
		}
		time.Sleep(3 * limits.Challenge)
		return false
	})
	if a := s.right(t, tag("v1")); !a.Fresh() {
		t.Error("stale")
	}
	if s.g.count("GET v2") == 0 {
		t.Error("no challenge")
	}
}

// TestAnswerEndsAnOutage checks that any response ends an outage.
func TestAnswerEndsAnOutage(t *testing.T) {
	s := start(t, patient, nil)
	s.g.image("v1")
	release := make(chan struct{})
	s.g.misbehave(func(http.ResponseWriter, *http.Request) bool { <-release; return false })
	slow := make(chan error)
	go func() { slow <- s.ask(t, tag("v2")) }()
	testutil.Eventually(t, "the question", func() bool { return s.g.count("HEAD v2") == 1 })
	s.health.mu.Lock()
	s.health.until, s.health.why = time.Now().Add(time.Hour), &requestError{timeout: true}
	s.health.mu.Unlock()
	isError(t, "out", s.ask(t, tag("v1")), 504, "UNAVAILABLE")
	close(release)
	isError(t, "the slow one", <-slow, 404, "MANIFEST_UNKNOWN")
	s.right(t, tag("v1"))
}

// TestStillSilent checks that the first request after an outage has been forgotten requests the challenge at once,
// which may show that the outage is over.
func TestStillSilent(t *testing.T) {
	limits := patient
	limits.Challenge, limits.Remember = time.Second, time.Nanosecond
	s := start(t, limits, nil)
	s.g.image("v1")
	s.g.misbehave(on("", "", hang))
	for i, most := range []time.Duration{4 * time.Second, 1300 * time.Millisecond} {
		begun := time.Now()
		isError(t, "silent", s.ask(t, tag(fmt.Sprint("w", i))), 504, "UNAVAILABLE")
		if took := time.Since(begun); took > most {
			t.Errorf("question %d: %v", i, took)
		}
	}
	if !s.WasDown() {
		t.Error("it was not out")
	}
	s.g.misbehave(nil)
	if s.right(t, tag("v1")); s.WasDown() || s.IsDown(time.Now().Add(-time.Minute)) {
		t.Error("still out")
	}
}

// TestSuspect checks that the challenge is requested only without a response since then, and the result is remembered.
func TestSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, dead := 0, &requestError{timeout: true}
		h := newHealth(Limits{Remember: 3 * time.Second}, func() *requestError { asked++; time.Sleep(time.Second); return dead })
		begun := time.Now()
		time.Sleep(time.Second)
		h.answered()
		if h.check(begun) != nil || asked != 0 {
			t.Errorf("suspect although it has answered, %d challenges", asked)
		}
		time.Sleep(time.Second)
		var many sync.WaitGroup
		for range 10 {
			many.Go(func() {
				if h.check(time.Now()) != dead {
					t.Error("not out")
				}
			})
		}
		many.Wait()
		if asked != 1 || h.outage() != dead {
			t.Errorf("%d challenges, %v", asked, h.outage())
		}
		time.Sleep(3*time.Second - 1)
		if h.outage() != dead {
			t.Error("forgotten too early")
		}
		time.Sleep(time.Nanosecond)
		if h.outage() != nil {
			t.Error("not forgotten")
		}
		many.Go(func() { time.Sleep(time.Second / 2); h.answered() })
		if h.check(time.Now()) != nil || h.outage() != nil {
			t.Error("out although something was answered during the challenge")
		}
		many.Wait()
	})
}
