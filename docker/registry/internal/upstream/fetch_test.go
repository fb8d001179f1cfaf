// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pullthrough.registry_cache/docker/registry/internal/store"
)

// good fails unless a client got the whole blob and the store has it.
func (s *setup) good(t testing.TB, u *Upstream, f fetched, d digest.Digest, content []byte) {
	t.Helper()
	if f.err != nil || f.read != nil || f.state != store.Whole || !bytes.Equal(f.content, content) {
		t.Fatalf("%d bytes of %d, read %v, fetch %v, state %d", len(f.content), len(content), f.read, f.err, f.state)
	}
	if size, ok := u.store.Has("some/image", d); !ok || size != int64(len(content)) {
		t.Errorf("not kept: %d, %v", size, ok)
	}
}

// TestFetch stores a blob of any size by one GET. A known size is not asked for again, and an unknown one costs no request.
func TestFetch(t *testing.T) {
	s := start(t, patient, nil)
	for _, size := range []int{0, 1, 511, 513, 70000, 3 * mib} {
		for _, known := range []bool{true, false} {
			d, content := s.g.blob(size)
			if size == 0 { // the registry takes no content for nothing there
				s.g.put(d.String(), item{"application/octet-stream", d, []byte{}})
			}
			announced := int64(-1)
			if known {
				n, err := s.Stat(ctx, blob(d))
				if err != nil || n != int64(size) {
					t.Fatalf("%d: %d, %v", size, n, err)
				}
				announced = n
			}
			before := s.g.count("GET " + d.String())
			s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, announced), d, content)
			if gets := s.g.count("GET "+d.String()) - before; gets != 1 && size > 0 {
				t.Errorf("%d: %d GETs", size, gets)
			}
		}
	}
	if out := s.value(t, "registry_cache_upstream_received_bytes_total", "blob"); out < 6*mib {
		t.Errorf("%v bytes received", out)
	}
}

// TestFetchWhatIsThere serves a blob from the store that came meanwhile.
func TestFetchWhatIsThere(t *testing.T) {
	s := start(t, patient, nil)
	d, content := s.g.blob(100000)
	s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, 100000), d, content)
	s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, -1), d, content)
	if gets := s.g.count("GET " + d.String()); gets != 1 {
		t.Errorf("%d GETs", gets)
	}
}

// cutOnce sends a part of a blob and cuts the connection, the first times. Ranges are served if ranges is set.
func cutOnce(content []byte, times int32, ranges bool) func(http.ResponseWriter, *http.Request) bool {
	var gets atomic.Int32
	return on(http.MethodGet, "/blobs/", func(w http.ResponseWriter, r *http.Request) {
		if !ranges {
			r.Header.Del("Range")
		}
		n := gets.Add(1)
		if n > times {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
			return
		}
		var off int
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &off); err == nil {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, len(content)-1, len(content)))
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(content)-off))
		if off > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(content[off : off+(len(content)-off)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
}

// TestFetchGoesOn where an upstream cuts a blob, with and without ranges.
func TestFetchGoesOn(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		for _, times := range []int32{1, 2} {
			if !ranges && times > 1 {
				continue // it would be no progress
			}
			s := start(t, patient, nil)
			d, content := s.g.blob(3 * mib)
			s.g.misbehave(cutOnce(content, times, ranges))
			s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, 3*mib), d, content)
			if gets := s.g.count("GET " + d.String()); gets != int(times)+1 {
				t.Errorf("ranges %v: %d GETs", ranges, gets)
			}
		}
	}
}

// TestFetchGivesUp on an upstream that cuts a blob again and again.
func TestFetchGivesUp(t *testing.T) {
	s := start(t, patient, nil)
	d, content := s.g.blob(3 * mib)
	s.g.misbehave(cutOnce(content, 1000, true))
	f := s.fetch(t, s.Upstream, d, 3*mib)
	isError(t, "cut", f.err, 502, "UNAVAILABLE")
	if f.read == nil || len(f.content) >= 3*mib || !bytes.HasPrefix(content, f.content) {
		t.Errorf("%d bytes, %v", len(f.content), f.read)
	}
	if gets := s.g.count("GET " + d.String()); gets != resumes+1 {
		t.Errorf("%d GETs", gets)
	}
	if n := s.value(t, "registry_cache_refused_total", "blob", "cut"); n != 1 {
		t.Errorf("%v refused", n)
	}
	s.g.misbehave(nil)
	s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, 3*mib), d, content)
}

// TestFetchCorrupt lets no client see the end of wrong bytes, and keeps nothing.
func TestFetchCorrupt(t *testing.T) {
	s := start(t, patient, nil)
	d, content := s.g.blob(mib)
	wrong := append([]byte{content[0] ^ 1}, content[1:]...)
	for _, test := range []struct {
		name  string
		body  []byte
		known int64
		code  string
	}{
		{"wrong", wrong, mib, "UPSTREAM_INVALID"}, {"wrong, of unknown size", wrong, -1, "UPSTREAM_INVALID"},
		{"longer than announced", append(content[:mib:mib], 1), mib, "UPSTREAM_INVALID"},
		{"shorter than announced", content[:mib-1], mib, "UPSTREAM_INVALID"},
	} {
		s.g.misbehave(on(http.MethodGet, "/blobs/", func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(test.body))
		}))
		f := s.fetch(t, s.Upstream, d, test.known)
		isError(t, test.name, f.err, 502, test.code)
		if len(f.content) > mib-512 || f.read == nil {
			t.Errorf("%s: %d bytes, %v", test.name, len(f.content), f.read)
		}
		if _, ok := s.Upstream.store.Has("some/image", d); ok {
			t.Errorf("%s: kept", test.name)
		}
	}
	if n := s.value(t, "registry_cache_refused_total", "blob", "digest"); n != 2 {
		t.Errorf("%v refused", n)
	}
}

// TestFetchRedirect shows the credential to the upstream only, and identity is what is asked for everywhere.
func TestFetchRedirect(t *testing.T) {
	s := start(t, patient, helperFor(t, "s1"))
	s.g.set(func() { s.g.login = true })
	elsewhere := newRegistry(t)
	d, content := s.g.blob(mib)
	elsewhere.put(d.String(), item{"application/octet-stream", "", content})
	elsewhere.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("header %v", r.Header)
		}
		return false
	})
	s.g.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Authorization") != "" {
			http.Redirect(w, r, elsewhere.URL+"/elsewhere/"+d.String(), http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, -1), d, content)
	if n := elsewhere.count("GET " + d.String()); n != 1 {
		t.Errorf("%d downloads", n)
	}
	s.g.misbehave(on("", "/blobs/", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }))
	d, _ = s.g.blob(10)
	isError(t, "a ring of redirects", s.fetch(t, s.Upstream, d, -1).err, 502, "UPSTREAM_INVALID")
	s.g.misbehave(on("", "/blobs/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	}))
	isError(t, "a file", s.fetch(t, s.Upstream, d, -1).err, 502, "UPSTREAM_INVALID")
}

// TestFetchIsPatient begins a blob long after anybody has waited for it (row 13 of the issue).
func TestFetchIsPatient(t *testing.T) {
	limits := patient
	limits.Challenge = briefly
	s := start(t, limits, nil)
	d, content := s.g.blob(mib)
	release := make(chan struct{})
	s.g.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			<-release
		}
		return false
	})
	s.late(t, blob(d))
	if n := s.Size(blob(d)); n >= 0 {
		t.Errorf("a size of %d", n)
	}
	go func() {
		until(t, "the GET", func() bool { return s.g.count("GET "+d.String()) > 0 })
		until(t, "the challenge", func() bool { return s.g.count("GET v2") > 0 })
		close(release)
	}()
	s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, -1), d, content)
	if n := s.Size(blob(d)); n != mib {
		t.Errorf("a size of %d", n)
	}
}

// TestFetchStalls ends when the upstream is silent in the middle of a blob, and says so.
func TestFetchStalls(t *testing.T) {
	limits := patient
	limits.Stall = 200 * time.Millisecond
	s := start(t, limits, nil)
	d, content := s.g.blob(mib)
	s.g.misbehave(on(http.MethodGet, "/blobs/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(mib))
		_, _ = w.Write(content[:mib/2])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	isError(t, "stall", s.fetch(t, s.Upstream, d, mib).err, 504, "UNAVAILABLE")
	s.g.misbehave(on(http.MethodGet, "/blobs/", hang))
	isError(t, "hang", s.fetch(t, s.Upstream, d, mib).err, 504, "UNAVAILABLE")
	// Slow is not silent.
	s.g.misbehave(on(http.MethodGet, "/blobs/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(mib))
		for i := range 8 {
			_, _ = w.Write(content[i*mib/8 : (i+1)*mib/8])
			_ = http.NewResponseController(w).Flush()
			time.Sleep(limits.Stall / 5)
		}
	}))
	s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, mib), d, content)
}

// TestFetchEnds with its context and with Close.
func TestFetchEnds(t *testing.T) {
	s := start(t, patient, nil)
	d, _ := s.g.blob(mib)
	s.g.misbehave(on(http.MethodGet, "/blobs/", hang))
	why := errors.New("nobody is left")
	c, cancel := context.WithCancelCause(ctx)
	go func() {
		until(t, "the GET", func() bool { return s.g.count("GET "+d.String()) > 0 })
		cancel(why)
	}()
	if f := s.fetchIn(t, c, s.Upstream, d, mib); !errors.Is(f.err, why) {
		t.Errorf("%v", f.err)
	}
	go func() {
		until(t, "the GET", func() bool { return s.g.count("GET "+d.String()) > 1 })
		_ = s.Close()
	}()
	isError(t, "closed", s.fetch(t, s.Upstream, d, mib).err, 502, "UNAVAILABLE")
}

// TestTwoUpstreams fetches one digest from two upstreams at once: both clients get it, both stores have it, and the metrics
// of both are in one registry.
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
	var most, running atomic.Int32
	slowly := on(http.MethodGet, "/blobs/", func(w http.ResponseWriter, r *http.Request) {
		n := running.Add(1)
		defer running.Add(-1)
		most.Store(max(most.Load(), n))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	s.g.misbehave(slowly)
	other.misbehave(slowly)
	var clients sync.WaitGroup
	for _, u := range []*Upstream{one, two} {
		clients.Go(func() {
			if a, err := u.Ask(ctx, tag("v1"), ""); err != nil || a.Digest != manifest {
				t.Errorf("%s: %v, %v", u.Name(), a, err)
			}
			s.good(t, u, s.fetch(t, u, d, 3*mib), d, content)
		})
	}
	clients.Wait()
	if most.Load() > 1 {
		t.Error("two transfers of one digest at once")
	}
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

// TestTwoUpstreamsOneHangs does not let the clients of one upstream wait for another.
func TestTwoUpstreamsOneHangs(t *testing.T) {
	limits := patient
	limits.Challenge = 50 * time.Millisecond
	s := start(t, patient, nil)
	other := newRegistry(t)
	two := open(t, other, s.store, NewMetrics(), "two.example", limits, nil)
	d, content := s.g.blob(3 * mib)
	other.put(d.String(), item{"application/octet-stream", d, content})
	s.g.misbehave(on(http.MethodGet, "/blobs/", hang))
	c, cancel := context.WithCancel(ctx)
	ended := make(chan fetched)
	go func() { ended <- s.fetchIn(t, c, s.Upstream, d, 3*mib) }()
	until(t, "the GET", func() bool { return s.g.count("GET "+d.String()) > 0 })
	for _, size := range []int64{3 * mib, -1} {
		f := s.fetch(t, two, d, size)
		if f.err != nil || f.read != nil || !bytes.Equal(f.content, content) {
			t.Errorf("%d bytes, %v, %v", len(f.content), f.read, f.err)
		}
	}
	other.misbehave(on(http.MethodGet, "/blobs/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403) }))
	isError(t, "refused", s.fetch(t, two, d, 3*mib).err, 403, "DENIED")
	cancel()
	<-ended
	other.misbehave(nil)
	s.good(t, two, s.fetch(t, two, d, 3*mib), d, content)
}
