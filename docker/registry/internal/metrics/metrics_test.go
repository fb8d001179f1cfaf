// SPDX-License-Identifier: GPL-3.0-or-later

package metrics

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pullthrough.registry_cache/docker/registry/internal/server"
)

// text returns the metrics in the text format.
func text(m *Metrics) string {
	w := httptest.NewRecorder()
	m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func want(t *testing.T, m *Metrics, lines ...string) {
	t.Helper()
	shown := text(m)
	for _, line := range lines {
		if !strings.Contains(shown, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

// TestRequest counts requests, bytes and times by description, concurrently.
func TestRequest(t *testing.T) {
	m := New()
	d := server.Description{Upstream: "one", Kind: "blob", Result: "hit"}
	var clients sync.WaitGroup
	for range 10 {
		clients.Go(func() { m.CountRequest(d, server.Outcome{Status: 200, Bytes: 7, FirstByte: 50 * time.Millisecond}) })
	}
	clients.Wait()
	m.CountRequest(d, server.Outcome{}) // the client disconnected before the response
	m.CountRequest(server.Description{Kind: "tag", Result: "denied"}, server.Outcome{Status: 401})
	want(t, m,
		`registry_cache_requests_total{kind="blob",result="hit",upstream="one"} 11`,
		`registry_cache_sent_bytes_total{kind="blob",result="hit",upstream="one"} 70`,
		`registry_cache_first_byte_seconds_bucket{kind="blob",result="hit",upstream="one",le="0.025"} 0`,
		`registry_cache_first_byte_seconds_bucket{kind="blob",result="hit",upstream="one",le="0.1"} 10`,
		`registry_cache_requests_total{kind="tag",result="denied",upstream=""} 1`,
	)
}

// TestProcess checks two sets of metrics in one process, with values that are read at each scrape.
func TestProcess(t *testing.T) {
	value := 1.0
	for range 2 {
		m := New()
		m.CountEvent(server.TLSHello)
		m.RegisterGauge("a", "A.", prometheus.Labels{"upstream": "one"}, func() float64 { return value })
		m.RegisterGauge("a", "A.", prometheus.Labels{"upstream": "two"}, func() float64 { return value })
		m.RegisterCounter("b_total", "B.", nil, func() float64 { return value })
		value = 2
		want(t, m, `a{upstream="one"} 2`, `a{upstream="two"} 2`, "b_total 2",
			`registry_cache_events_total{event="tls_hello"} 1`, `registry_cache_events_total{event="connection_dropped"} 0`)
		if shown := text(m); !strings.Contains(shown, "go_goroutines ") || !strings.Contains(shown, "process_cpu_seconds_total ") {
			t.Error("no metrics of the process")
		}
	}
}
