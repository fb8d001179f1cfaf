// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"bytes"
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestTwoUpstreams fetches the same digest from two upstreams at the same time. Both clients get it, both stores keep
// it, and both upstreams have metrics.
func TestTwoUpstreams(t *testing.T) {
	s := start(t, patient, nil)
	m := NewMetrics()
	both := prometheus.NewRegistry()
	if err := m.Register(both); err != nil {
		t.Fatal(err)
	}
	other := newRegistry(t)
	one, two := open(t, s.g, s.store, m, "one.example", patient, nil), open(t, other, s.store, m, "two.example", patient, nil)
	d, content := s.g.blob(3 * mib)
	other.put(d.String(), item{"application/octet-stream", d, content})
	manifest := s.g.image("v1")
	other.put("v1", s.g.items["v1"])
	other.put(manifest.String(), s.g.items["v1"])
	var asked sync.WaitGroup // waits for both requests before either gets a byte
	asked.Add(2)
	together := on(http.MethodGet, "/blobs/", func(w http.ResponseWriter, r *http.Request) {
		asked.Done()
		asked.Wait()
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	s.g.misbehave(together)
	other.misbehave(together)
	var clients sync.WaitGroup
	for _, u := range []*Upstream{one, two} {
		clients.Go(func() {
			if a, err := u.Get(ctx, tag("v1"), ""); err != nil || a.Digest != manifest {
				t.Errorf("%s: %v, %v", u.Name(), a, err)
			}
			s.good(t, u, s.fetch(t, u, d, 3*mib), d, content)
		})
	}
	clients.Wait()
	s.metrics = both
	for _, name := range []string{"one.example", "two.example"} {
		if n := s.value(t, "registry_cache_upstream_received_bytes_total", name, "blob"); n != 3*mib {
			t.Errorf("%s: %v bytes", name, n)
		}
		if n := s.value(t, "registry_cache_upstream_requests_total", name, "tag", "200"); n != 1 {
			t.Errorf("%s: %v requests for a tag", name, n)
		}
	}
}

// TestTwoUpstreamsOneHangs checks that clients of one upstream do not wait for another, and that their content is
// stored.
func TestTwoUpstreamsOneHangs(t *testing.T) {
	s := start(t, patient, nil)
	other := newRegistry(t)
	two := open(t, other, s.store, NewMetrics(), "two.example", patient, nil)
	d, content := s.g.blob(3 * mib)
	other.put(d.String(), item{"application/octet-stream", d, content})
	s.g.misbehave(on(http.MethodGet, "/blobs/", hang))
	c, cancel := context.WithCancel(ctx)
	ended := make(chan fetched)
	go func() { ended <- s.fetchIn(t, c, s.Upstream, d, 3*mib) }()
	testutil.Eventually(t, "the GET", func() bool { return s.g.count("GET "+d.String()) > 0 })
	other.misbehave(on(http.MethodGet, "/blobs/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403) }))
	isError(t, "refused", s.fetch(t, two, d, 3*mib).err, 403, "DENIED")
	other.misbehave(nil)
	begun := time.Now()
	for _, size := range []int64{3 * mib, -1} {
		s.good(t, two, s.fetch(t, two, d, size), d, content)
	}
	if took := time.Since(begun); took > patient.Challenge/2 {
		t.Errorf("took %s", took)
	}
	cancel()
	<-ended
	if gets := other.count("GET " + d.String()); gets != 2 { // including the refused one
		t.Errorf("%d GETs", gets)
	}
}
