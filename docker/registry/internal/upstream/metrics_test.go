// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestMetrics checks that metrics are registered once for all upstreams, and start at 0 if an alert uses their
// increase.
func TestMetrics(t *testing.T) {
	s := start(t, patient, nil)
	m, r := NewMetrics(), prometheus.NewRegistry()
	if err := m.Register(r); err != nil {
		t.Fatal(err)
	}
	if m.Register(r) == nil {
		t.Error("registered twice")
	}
	for _, name := range []string{"one.example", "two.example"} {
		open(t, s.g, s.store, m, name, patient, nil)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, family := range families {
		got[family.GetName()] = len(family.GetMetric())
	}
	for name, want := range map[string]int{
		"registry_cache_refused_total": 6, "registry_cache_credential_failures_total": 2, "registry_cache_upstream_out": 2,
	} {
		if got[name] != want {
			t.Errorf("%s: %d, want %d", name, got[name], want)
		}
	}
}

// TestCounts checks that each request is counted by kind, including redirects, and by result.
func TestCounts(t *testing.T) {
	limits := patient
	limits.Stall = soon
	s := start(t, limits, nil)
	const requests, seconds, bytes = "registry_cache_upstream_requests_total", "registry_cache_upstream_latency_seconds",
		"registry_cache_upstream_received_bytes_total"
	grows := func(what string, act func(), want map[[3]string]float64) {
		t.Helper()
		before := map[[3]string]float64{}
		for series := range want {
			before[series] = s.value(t, series[0], series[1], series[2])
		}
		act()
		for series, n := range want {
			if got := s.value(t, series[0], series[1], series[2]) - before[series]; got != n {
				t.Errorf("%s: %v grew by %v, want %v", what, series, got, n)
			}
		}
	}
	manifest := s.g.image("v1")
	elsewhere := newRegistry(t)
	d, content := s.g.blob(5000)
	elsewhere.put("object", item{"application/octet-stream", "", content})
	s.g.misbehave(on("GET", "/blobs/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+"/bucket/object", http.StatusTemporaryRedirect)
	}))
	grows("an image", func() {
		s.right(t, byDigest(manifest))
		s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, -1), d, content)
	}, map[[3]string]float64{
		{requests, "blob", "307"}: 1, {requests, "blob", "200"}: 1, {seconds, "blob", "up.example"}: 2,
		{requests, "manifest", "200"}: 1, {seconds, "manifest", "up.example"}: 1, {requests, "tag", "up.example"}: 0,
		{requests, "other", "up.example"}: 0, {"registry_cache_refused_total", "blob", "up.example"}: 0,
	})
	if n := s.value(t, bytes, "blob"); n < 5000 || n > 5500 { // including the body of the redirect
		t.Errorf("%v bytes", n)
	}
	for status, label := range map[int]string{401: "401", 403: "403", 429: "429", 503: "503"} {
		s.g.misbehave(func(w http.ResponseWriter, _ *http.Request) bool { refuse(w, status); return true })
		grows(label, func() { _ = s.ask(t, tag("other")) }, map[[3]string]float64{
			{requests, "tag", label}: 1, {seconds, "tag", "up.example"}: 1,
		})
	}
	s.g.misbehave(on("", "/manifests/", hang))
	grows("silence", func() { _ = s.ask(t, tag("other")) }, map[[3]string]float64{
		{requests, "tag", "timeout"}: 1, {seconds, "tag", "up.example"}: 1,
	})
}
