// SPDX-License-Identifier: GPL-3.0-or-later

package status

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var (
	asked = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "registry_cache_upstream_requests_total",
		Help: "Requests to the upstream, by what was asked for and the answer's status; or timeout, unreachable, canceled.",
	}, []string{"kind", "status"})
	latency = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "registry_cache_upstream_latency_seconds",
		Help:    "Time until the upstream began its answer, or until there was none, in seconds.",
		Buckets: []float64{.025, .1, .25, .5, 1, 2, 5, 10, 30},
	}, []string{"kind"})
	received = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "registry_cache_upstream_received_bytes_total",
		Help: "Bytes of the upstream's bodies.",
	}, []string{"kind"})
	noCredential = promauto.NewCounter(prometheus.CounterOpts{
		Name: "registry_cache_credential_failures_total",
		Help: "Tokens that were asked for without a credential, because the credential helper gave none.",
	})
)

// kindOf tells what a request asks for, wherever the upstream has redirected it.
func kindOf(req *http.Request) string {
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	switch p := req.URL.Path; {
	case p == "/v2/":
		return "challenge"
	case strings.Contains(p, "/blobs/"):
		return "blob"
	case strings.Contains(p, "/manifests/") && strings.Contains(p[strings.LastIndex(p, "/"):], ":"):
		return "manifest"
	case strings.Contains(p, "/manifests/"):
		return "tag"
	case strings.HasSuffix(p, "/tags/list"):
		return "other"
	case req.URL.Query().Has("service") || req.URL.Query().Has("scope"):
		return "token"
	}
	return "other"
}
