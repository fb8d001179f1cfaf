// SPDX-License-Identifier: GPL-3.0-or-later

// Package metrics exports the program's metrics to Prometheus. No label contains a repository, tag or credential.
package metrics

import (
	"log/slog"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"pullthrough.registry_cache/docker/registry/internal/server"
)

// Metrics holds the metrics of the process. It has a separate registry, since distribution uses the default one.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	sent     *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	events   *prometheus.CounterVec
	series   sync.Map // *series by server.Description
}

// series holds the metrics of requests with the same description.
type series struct {
	requests prometheus.Counter
	sent     prometheus.Counter
	latency  prometheus.Observer
}

// New returns the metrics of requests and of the process.
func New() *Metrics {
	labels := []string{"upstream", "kind", "result"}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_cache_requests_total",
			Help: "Number of client requests, by upstream, kind and result.",
		}, labels),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_cache_sent_bytes_total",
			Help: "Bytes of response bodies sent to clients.",
		}, labels),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "registry_cache_first_byte_seconds",
			Help:    "Time until the first byte of the response to a client, in seconds.",
			Buckets: []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 30},
		}, labels),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_cache_events_total",
			Help: "Number of events at the client port: dropped or refused connections, TLS on the plain port, handler failures, certificate failures.",
		}, []string{"event"}),
	}
	m.registry.MustRegister(m.requests, m.sent, m.latency, m.events,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// Export zeros: increase() and rate() miss the first event of a series that did not exist before.
	for _, event := range []server.Event{
		server.ConnectionDropped, server.ConnectionRefused, server.TLSHello, server.HandlerPanicked, server.HandlerSilent,
		server.CertificateReloaded, server.CertificateFailed,
	} {
		m.events.WithLabelValues(string(event))
	}
	return m
}

// Registerer returns the registerer for collectors of other packages.
func (m *Metrics) Registerer() prometheus.Registerer { return m.registry }

// CountEvent counts an event of a server.
func (m *Metrics) CountEvent(event server.Event) { m.events.WithLabelValues(string(event)).Inc() }

// CountRequest counts a request. There must be few different descriptions, since each is a series.
func (m *Metrics) CountRequest(d server.Description, o server.Outcome) {
	found, ok := m.series.Load(d)
	if !ok {
		labels := []string{d.Upstream, d.Kind, d.Result}
		found, _ = m.series.LoadOrStore(d, &series{
			m.requests.WithLabelValues(labels...), m.sent.WithLabelValues(labels...), m.latency.WithLabelValues(labels...),
		})
	}
	s := found.(*series)
	s.requests.Inc()
	s.sent.Add(float64(o.Bytes))
	if o.Status != 0 {
		s.latency.Observe(o.FirstByte.Seconds())
	}
}

// RegisterGauge registers a gauge whose value is read at each scrape.
func (m *Metrics) RegisterGauge(name, help string, labels prometheus.Labels, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value))
}

// RegisterCounter registers a counter whose value is read at each scrape. The value must never fall.
func (m *Metrics) RegisterCounter(name, help string, labels prometheus.Labels, value func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, value))
}

// Handler returns the handler that Prometheus scrapes.
func (m *Metrics) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorLog: errorLog{log}, MaxRequestsInFlight: 4})
}

type errorLog struct{ log *slog.Logger }

// Println logs an error from promhttp.
func (l errorLog) Println(v ...any) { l.log.Error("Cannot write metrics", "error", v) }
