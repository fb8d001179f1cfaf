// SPDX-License-Identifier: GPL-3.0-or-later

package bounded

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var (
	evicted = promauto.NewCounter(prometheus.CounterOpts{
		Name: "registry_cache_evictions_total",
		Help: "Blobs and manifests that were dropped to make room.",
	})
	evictedBytes = promauto.NewCounter(prometheus.CounterOpts{
		Name: "registry_cache_evicted_bytes_total",
		Help: "Disk that dropping them freed, in bytes.",
	})
	unkept = promauto.NewCounter(prometheus.CounterOpts{
		Name: "registry_cache_unkept_total",
		Help: "Bodies that were passed on and not stored, for want of room or for an error of the disk.",
	})
	corrupt = promauto.NewCounter(prometheus.CounterOpts{
		Name: "registry_cache_corrupt_total",
		Help: "Stored blobs that were dropped because their bytes had another digest.",
	})
)

// expose makes this store the one whose disk the process shows.
func (s *store) expose() {
	for _, gauge := range []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "registry_cache_disk_used_bytes",
			Help: "Disk in use by the registry's store, with what is reserved for running transfers, in bytes.",
		}, func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return float64(s.used)
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "registry_cache_disk_limit_bytes",
			Help: "Disk that the registry's store may use, in bytes.",
		}, func() float64 { return float64(s.limit) }),
	} {
		prometheus.Unregister(gauge)
		prometheus.MustRegister(gauge)
	}
}
