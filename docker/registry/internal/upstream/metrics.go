// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import "github.com/prometheus/client_golang/prometheus"

// Metrics holds the metrics of all upstreams, labelled by upstream. Distribution's own collectors are disabled, since a
// second app cannot register them.
type Metrics struct {
	requests   *prometheus.CounterVec
	latency    *prometheus.HistogramVec
	received   *prometheus.CounterVec
	anonymous  *prometheus.CounterVec
	refused    *prometheus.CounterVec
	out        *prometheus.GaugeVec
	collectors []prometheus.Collector
}

// NewMetrics returns unregistered metrics.
func NewMetrics() *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_cache_upstream_requests_total",
			Help: "Number of requests to the upstream, by kind and by status code, timeout, unreachable or canceled.",
		}, []string{"upstream", "kind", "status"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "registry_cache_upstream_latency_seconds",
			Help:    "Time until the upstream started to respond or the request failed, in seconds.",
			Buckets: []float64{.025, .1, .25, .5, 1, 2, 5, 10, 30},
		}, []string{"upstream", "kind"}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_cache_upstream_received_bytes_total",
			Help: "Bytes of response bodies received from the upstream.",
		}, []string{"upstream", "kind"}),
		anonymous: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_cache_credential_failures_total",
			Help: "Number of times the credential helper failed to return a credential.",
		}, []string{"upstream"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_cache_refused_total",
			Help: "Number of response bodies refused because of a wrong digest or because they were cut.",
		}, []string{"upstream", "kind", "reason"}),
		out: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "registry_cache_upstream_out",
			Help: "Whether the upstream is down: 1 if it refuses connections or does not respond to a request for its challenge, otherwise 0.",
		}, []string{"upstream"}),
	}
	m.collectors = []prometheus.Collector{m.requests, m.latency, m.received, m.anonymous, m.refused, m.out}
	return m
}

// Register registers the metrics with r.
func (m *Metrics) Register(r prometheus.Registerer) error {
	for _, c := range m.collectors {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// counters holds the metrics of one upstream.
type counters struct {
	requests  *prometheus.CounterVec // by kind and status
	latency   prometheus.ObserverVec // by kind
	received  *prometheus.CounterVec // by kind
	anonymous prometheus.Counter
	refused   *prometheus.CounterVec // by kind and reason
	out       prometheus.Gauge
}

// forUpstream returns the metrics of one upstream.
func (m *Metrics) forUpstream(name string) *counters {
	label := prometheus.Labels{"upstream": name}
	c := &counters{
		requests: m.requests.MustCurryWith(label), latency: m.latency.MustCurryWith(label),
		received: m.received.MustCurryWith(label), anonymous: m.anonymous.With(label),
		refused: m.refused.MustCurryWith(label), out: m.out.With(label),
	}
	// Export zeros: increase() and rate() miss the first event of a series that did not exist before.
	for _, of := range [][]string{{"manifest", "digest"}, {"blob", "digest"}, {"blob", "cut"}} {
		c.refused.WithLabelValues(of...)
	}
	return c
}
