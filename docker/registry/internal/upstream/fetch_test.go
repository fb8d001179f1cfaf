// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/store"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// good fails the test unless the client has received the whole blob and the store has it.
func (s *setup) good(t testing.TB, u *Upstream, f fetched, d digest.Digest, content []byte) {
	t.Helper()
	if f.err != nil || f.read != nil || f.state != store.Complete || !bytes.Equal(f.content, content) {
		t.Fatalf("%d bytes of %d, read %v, fetch %v, state %d", len(f.content), len(content), f.read, f.err, f.state)
	}
	if size, ok := u.store.Has("some/image", d); !ok || size != int64(len(content)) {
		t.Errorf("not stored: %d, %v", size, ok)
	}
}

// TestFetch checks that a blob of any size is stored with one GET and no HEAD.
func TestFetch(t *testing.T) {
	s := start(t, patient, nil)
	for _, size := range []int{0, 1, 511, 513, 70000, 3 * mib} {
		for _, known := range []bool{true, false} {
			d, content := s.g.blob(size)
			if size == 0 { // the fake registry treats empty content as missing
				s.g.put(d.String(), item{"application/octet-stream", d, []byte{}})
			}
			announced := int64(-1)
			if known {
				announced = int64(size)
			}
			before := s.g.count("GET " + d.String())
			s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, announced), d, content)
			if gets, heads := s.g.count("GET "+d.String())-before, s.g.count("HEAD "+d.String()); gets != 1 && size > 0 || heads > 0 {
				t.Errorf("%d: %d GETs, %d HEADs", size, gets, heads)
			}
		}
	}
	if out := s.value(t, "registry_cache_upstream_received_bytes_total", "blob"); out < 6*mib {
		t.Errorf("%v bytes received", out)
	}
}

// TestFetchStoredBlob checks that a blob that has been stored in the meantime is served from the store.
func TestFetchStoredBlob(t *testing.T) {
	s := start(t, patient, nil)
	d, content := s.g.blob(100000)
	s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, 100000), d, content)
	s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, -1), d, content)
	if gets := s.g.count("GET " + d.String()); gets != 1 {
		t.Errorf("%d GETs", gets)
	}
}

// cutOnce returns a fault that sends a part of a blob and cuts the connection, for the first requests. It serves ranges
// if ranges is set.
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

// TestFetchResumes checks that an interrupted transfer is resumed, with and without support for ranges.
func TestFetchResumes(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		for _, times := range []int32{1, 2} {
			if !ranges && times > 1 {
				continue // there would be no progress
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

// TestFetchGivesUp checks that a transfer that is interrupted again and again fails.
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

// TestFetchCorrupt checks that no client receives the end of wrong bytes, and that nothing is stored.
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
			t.Errorf("%s: stored", test.name)
		}
	}
	if n := s.value(t, "registry_cache_refused_total", "blob", "digest"); n != 2 {
		t.Errorf("%v refused", n)
	}
}

// TestFetchIsPatient checks that a blob whose first byte arrives very late is still fetched.
func TestFetchIsPatient(t *testing.T) {
	limits := patient
	limits.Challenge = soon
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
	go func() {
		testutil.Eventually(t, "the GET", func() bool { return s.g.count("GET "+d.String()) > 0 })
		testutil.Eventually(t, "the challenge", func() bool { return s.g.count("GET v2") > 0 })
		close(release)
	}()
	s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, -1), d, content)
}

// TestFetchStalls checks that a fetch fails if the upstream is silent in the middle of a blob.
func TestFetchStalls(t *testing.T) {
	limits := patient
	limits.Stall = soon
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
	// A slow upstream is not a silent one.
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

// TestFetchEnds checks that a fetch ends with its context and with Close.
func TestFetchEnds(t *testing.T) {
	s := start(t, patient, nil)
	d, _ := s.g.blob(mib)
	s.g.misbehave(on(http.MethodGet, "/blobs/", hang))
	why := errors.New("nobody is left")
	c, cancel := context.WithCancelCause(ctx)
	go func() {
		testutil.Eventually(t, "the GET", func() bool { return s.g.count("GET "+d.String()) > 0 })
		cancel(why)
	}()
	if f := s.fetchIn(t, c, s.Upstream, d, mib); !errors.Is(f.err, why) {
		t.Errorf("%v", f.err)
	}
	go func() {
		testutil.Eventually(t, "the GET", func() bool { return s.g.count("GET "+d.String()) > 1 })
		_ = s.Close()
	}()
	isError(t, "closed", s.fetch(t, s.Upstream, d, mib).err, 502, "UNAVAILABLE")
}

// TestFetchEndsWithoutReaders checks that a client that does not read does not block the end of a fetch without room in
// the store.
func TestFetchEndsWithoutReaders(t *testing.T) {
	s := start(t, patient, nil)
	d, content := s.g.blob(64 << 10)
	s.g.misbehave(on(http.MethodGet, "/blobs/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(store.MinLimit+mib))
		for {
			if _, err := w.Write(content); err != nil {
				return
			}
		}
	}))
	g := s.Upstream.store.Grow(d, store.MinLimit+mib)
	defer g.Close()
	r, err := g.NewReader(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	why := errors.New("nobody is left")
	c, cancel := context.WithCancelCause(ctx)
	ended := make(chan error)
	go func() { ended <- s.Fetch(c, blob(d), g) }()
	last, same := int64(0), 0
	testutil.Eventually(t, "a full window", func() bool {
		same++
		if now := g.Written(); now != last {
			last, same = now, 0
		}
		return g.Windowed() && last > mib && same > 100
	})
	begun := time.Now()
	cancel(why)
	if err := <-ended; !errors.Is(err, why) {
		t.Error(err)
	}
	if took := time.Since(begun); took > 5*time.Second { // the reader is dropped after 10 s
		t.Errorf("took %s", took)
	}
}

// TestFetchSHA512 checks that a blob is found by the requested digest.
func TestFetchSHA512(t *testing.T) {
	s := start(t, patient, nil)
	content := testutil.RandomBytes(mib)
	d := digest.SHA512.FromBytes(content)
	s.g.put(d.String(), item{"application/octet-stream", d, content})
	s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, -1), d, content)
	manifest := s.g.items[s.g.image("v1").String()]
	manifest.digest = digest.SHA512.FromBytes(manifest.content)
	s.g.put(manifest.digest.String(), manifest)
	s.right(t, byDigest(manifest.digest))
}
