// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
)

// metric is the value of a metric of this process, over all labels but those given as name=value after its name.
func metric(t *testing.T, name string) (sum float64) {
	t.Helper()
	words := strings.Fields(name)
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "registry_cache_"+words[0] {
			continue
		}
		for _, m := range family.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetName()+"="+l.GetValue())
			}
			if !slices.ContainsFunc(words[1:], func(l string) bool { return !slices.Contains(has, l) }) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// grown fails unless the metrics grew by what they should.
func grown(t *testing.T, want map[string]float64, act func()) {
	t.Helper()
	before := map[string]float64{}
	for name := range want {
		before[name] = metric(t, name)
	}
	act()
	for name, n := range want {
		if got := metric(t, name) - before[name]; got != n {
			t.Errorf("%s grew by %v, want %v", name, got, n)
		}
	}
}

func TestMetricsOfTheUpstream(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	manifest, blob := up.image("v1", 5000)
	grown(t, map[string]float64{
		"upstream_requests_total kind=blob status=200":     2, // HEAD and GET
		"upstream_latency_seconds kind=blob":               2,
		"upstream_received_bytes_total kind=blob":          5000,
		"upstream_requests_total kind=manifest status=200": 1,
		"upstream_received_bytes_total kind=manifest":      float64(len(up.bytes(manifest))),
		"upstream_requests_total kind=tag":                 0,
		"credential_failures_total":                        0,
		"refused_total":                                    0,
	}, func() {
		right(t, c.manifest(manifest.String()), manifest)
		right(t, c.blob(blob), blob)
		right(t, c.blob(blob), blob) // from the store
	})
	for fault, want := range map[int]string{401: "401", 403: "403", 429: "429", 503: "503", 0: "timeout"} {
		up.misbehave(func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
			if fault == 0 {
				<-r.Context().Done()
				return true
			}
			return always(w, fault)
		})
		n := 2.0 // HEAD and GET
		if fault == 0 {
			n = 1
		}
		grown(t, map[string]float64{"upstream_requests_total kind=tag status=" + want: n, "upstream_latency_seconds kind=tag": n}, func() {
			c.manifest("other")
		})
	}
	up.Close()
	grown(t, map[string]float64{"upstream_requests_total status=unreachable": 1}, func() {
		c.manifest("other")
	})
}

// TestMetricsOfARedirect counts a blob's bytes as a blob's wherever the upstream keeps it.
func TestMetricsOfARedirect(t *testing.T) {
	up, bucket := newUpstream(t), newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	d := up.blob(5000)
	bucket.put("object", up.bytes(d))
	up.misbehave(onBlob(func(w http.ResponseWriter, _ []byte) {
		w.Header().Del("Content-Length")
		w.Header().Set("Location", bucket.URL+"/bucket/object")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	grown(t, map[string]float64{
		"upstream_requests_total kind=blob status=307": 1,
		"upstream_received_bytes_total kind=blob":      5000,
		"upstream_requests_total kind=other":           0,
	}, func() { right(t, c.blob(d), d) })
}

func TestMetricsOfTheCredential(t *testing.T) {
	for proxy, want := range map[string]float64{"exec: {command: /bin/false, lifetime: 0s}": 1, "username: u, password: p": 0} {
		up := newUpstream(t)
		d, _ := up.image("v1", 10)
		up.tokens = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"token":"t","expires_in":300}`)) }
		config := strings.Replace(yaml(up.URL, t.TempDir(), "", ample), "proxy: {", "proxy: {"+proxy+", ", 1)
		url := startConfig(t, config).URL
		grown(t, map[string]float64{"credential_failures_total": want, "upstream_requests_total kind=token status=200": 1}, func() {
			ask(t, http.MethodGet, url+"/v2/some/image/manifests/"+d.String())
		})
	}
}

func TestMetricsOfWrongBytes(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	for reason, fault := range map[string]func(w http.ResponseWriter, body []byte){
		"digest": func(w http.ResponseWriter, body []byte) {
			_, _ = w.Write(append([]byte{body[0] + 1}, body[1:]...))
		},
		"cut": func(w http.ResponseWriter, body []byte) { _, _ = w.Write(body[:len(body)/2]) },
	} {
		for _, size := range []int{100, 5000} {
			d := up.blob(size)
			up.misbehave(onBlob(fault))
			grown(t, map[string]float64{"refused_total kind=blob reason=" + reason: 1, "refused_total": 1}, func() {
				if a := c.blob(d); a.StatusCode == http.StatusOK && a.err == nil {
					t.Errorf("%v", a)
				}
			})
		}
	}
	d := digest.FromString("a manifest that is another")
	_, _ = up.image("v1", 10)
	up.put(d.String(), up.content["v1"])
	grown(t, map[string]float64{"refused_total kind=manifest reason=digest": 1, "refused_total": 1}, func() {
		if a := c.manifest(d.String()); a.StatusCode < http.StatusInternalServerError {
			t.Errorf("%v", a)
		}
	})
}

func TestMetricsOfTheDisk(t *testing.T) {
	const limit = 300 << 10
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), limit)
	grown(t, map[string]float64{"evictions_total": 1, "unkept_total": 1}, func() {
		for range 2 {
			d := up.blob(150 << 10)
			right(t, c.blob(d), d)
		}
		d := up.blob(limit + 1)
		right(t, c.blob(d), d)
	})
	d := up.blob(5000)
	right(t, c.blob(d), d)
	if err := os.WriteFile(data(c.root, d), make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	grown(t, map[string]float64{"corrupt_total": 1}, func() { c.blob(d) })
	if got := metric(t, "disk_limit_bytes"); got != limit {
		t.Errorf("limit %v", got)
	}
	if got := metric(t, "disk_used_bytes"); got < float64(du(c.root)) || got > limit {
		t.Errorf("used %v, du %d", got, du(c.root))
	}
	if got := metric(t, "evicted_bytes_total"); got < 150<<10 {
		t.Errorf("evicted %v bytes", got)
	}
}

// TestMetricsOfTheUsers looks at the file as it is at each scrape.
func TestMetricsOfTheUsers(t *testing.T) {
	const hash = "$2y$10$abcdefghijklmnopqrstuuWcDJsZ0KrGyvTgoSWyDUQdxKzEb1N2i"
	file := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(file, []byte("a:"+hash+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := yaml(newUpstream(t).URL, t.TempDir(), "", ample)
	config += fmt.Sprintf("auth: {htpasswd: {realm: r, path: %q}}\n", file)
	startConfig(t, config)
	for content, want := range map[string]float64{
		"a:" + hash + "\n\n# a comment\nb:" + hash: 2,
		"a:" + hash + "\nno user\n":                0,
		"a:" + hash + "\nb:plain\n":                0,
		":" + hash:                                 0,
		"":                                         0,
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := metric(t, "htpasswd_users"); got != want {
			t.Errorf("%q: %v users, want %v", content, got, want)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := metric(t, "htpasswd_users"); got != 0 {
		t.Errorf("no file: %v users", got)
	}
}
