// SPDX-License-Identifier: GPL-3.0-or-later

package verify

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var refused = promauto.NewCounterVec(prometheus.CounterOpts{
	Name: "registry_cache_refused_total",
	Help: "Bodies that were refused: of another digest than was asked for, or cut.",
}, []string{"kind", "reason"})

func init() {
	// An increase is seen only from a value that was there before.
	for _, of := range [][]string{{"manifest", "digest"}, {"blob", "digest"}, {"blob", "cut"}} {
		refused.WithLabelValues(of...)
	}
}
