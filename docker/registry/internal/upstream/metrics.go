// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the metrics of all upstreams, labelled by upstream. Distribution's own collectors are off, since a second app cannot
// register them.
type Metrics struct {
	requests   *prometheus.CounterVec
	latency    *prometheus.HistogramVec
	received   *prometheus.CounterVec
	anonymous  *prometheus.CounterVec
	refused    *prometheus.CounterVec
	out        *prometheus.GaugeVec
	collectors []prometheus.Collector
}

// NewMetrics returns metrics that are not registered yet.
func NewMetrics() *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_cache_upstream_requests_total",
			Help: "Requests to the upstream, by what was asked for and the answer's status; or timeout, unreachable, canceled.",
		}, []string{"upstream", "kind", "status"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "registry_cache_upstream_latency_seconds",
			Help:    "Time until the upstream began its answer, or until there was none, in seconds.",
			Buckets: []float64{.025, .1, .25, .5, 1, 2, 5, 10, 30},
		}, []string{"upstream", "kind"}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_cache_upstream_received_bytes_total",
			Help: "Bytes of the upstream's bodies.",
		}, []string{"upstream", "kind"}),
		anonymous: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_cache_credential_failures_total",
			Help: "Requests for a credential that the credential helper did not give.",
		}, []string{"upstream"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_cache_refused_total",
			Help: "Bodies that were refused: of another digest than was asked for, or cut.",
		}, []string{"upstream", "kind", "reason"}),
		out: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "registry_cache_upstream_out",
			Help: "1 while the upstream refuses or is silent about its challenge.",
		}, []string{"upstream"}),
	}
	m.collectors = []prometheus.Collector{m.requests, m.latency, m.received, m.anonymous, m.refused, m.out}
	return m
}

// Register registers the metrics.
func (m *Metrics) Register(r prometheus.Registerer) error {
	for _, c := range m.collectors {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// counters are the metrics of one upstream.
type counters struct {
	requests  *prometheus.CounterVec // kind, status
	latency   prometheus.ObserverVec // kind
	received  *prometheus.CounterVec // kind
	anonymous prometheus.Counter
	refused   *prometheus.CounterVec // kind, reason
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
	// An increase is seen only from a value that was there before.
	for _, of := range [][]string{{"manifest", "digest"}, {"blob", "digest"}, {"blob", "cut"}} {
		c.refused.WithLabelValues(of...)
	}
	return c
}
