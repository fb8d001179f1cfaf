// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestMetrics are registered once for all upstreams, and begin at 0 where an alert looks for an increase.
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
