// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"log/slog"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/config"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestWrongUse checks that wrong use returns an error and does not panic.
func TestWrongUse(t *testing.T) {
	s := start(t, patient, nil)
	if _, err := s.Get(ctx, blob(nowhere), ""); err == nil {
		t.Error("a blob by Ask")
	}
	if err := s.Fetch(ctx, tag("v1"), nil); err == nil {
		t.Error("a tag by Fetch")
	}
	_ = s.Close()
	isError(t, "closed", s.ask(t, tag("v1")), 502, "UNAVAILABLE")
}

// TestNew checks that New refuses URLs that are not the root of a registry, and works while the upstream is down.
func TestNew(t *testing.T) {
	part, err := newStore(t).Upstream("up.example")
	if err != nil {
		t.Fatal(err)
	}
	for url, ok := range map[string]bool{
		"": true, "http://127.0.0.1:1": true, "http://127.0.0.1:1/": true, "http://127.0.0.1:1/v2": false, "no url": false, "http://%": false,
	} {
		u, err := New(Options{
			Config: config.Upstream{Host: "up.example", URL: url}, Limits: patient, Store: part, Metrics: NewMetrics(),
			Logger: slog.New(slog.DiscardHandler),
		})
		if (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		}
		if err == nil {
			_ = u.Close()
		}
	}
}

// TestLimitsOf checks that each limit comes from its key.
func TestLimitsOf(t *testing.T) {
	c := &config.Config{Outage: config.Outage{ChallengeTimeout: 1, Remember: 2}, Fill: config.Fill{StallTimeout: 3}}
	if got := LimitsOf(c); got != (Limits{Challenge: 1, Stall: 3, Remember: 2}) {
		t.Errorf("%+v", got)
	}
}

// TestClose checks that Close cancels all requests, including those for tokens, and waits for them.
func TestClose(t *testing.T) {
	for part, asked := range map[string]string{"/manifests/": "HEAD v1", "/token": "GET token"} {
		s := start(t, patient, helperFor(t, "s1"))
		s.g.set(func() { s.g.login = true })
		s.g.misbehave(on("", part, hang))
		ended := make(chan error)
		go func() { ended <- s.ask(t, tag("v1")) }()
		testutil.Eventually(t, "the question", func() bool { return s.g.count(asked) == 1 })
		begun := time.Now()
		_ = s.Close()
		isError(t, "closed", <-ended, 502, "UNAVAILABLE")
		if took := time.Since(begun); took > patient.Challenge/2 {
			t.Errorf("%s: took %s", part, took)
		}
	}
}
