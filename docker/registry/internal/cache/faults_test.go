// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestWrongBytesOfOwner corrupts a stored blob on the owner's disk. Other replicas never serve it as complete, and
// clients get the right blob in the end.
func TestWrongBytesOfOwner(t *testing.T) {
	u := newRegistry(t)
	f := startFleet(t, 3, u, "")
	blob := f.owned(u, f.replicas[0])
	owner, entry := f.replicas[0], f.replicas[1]
	pullAll(t, []*replica{owner}, blob, 1, 1)
	testutil.Eventually(t, "it is stored", func() bool { return owner.metric("registry_cache_fills") == 0 })
	hex := blob.Encoded()
	file := filepath.Join(owner.root, "upstreams/up.example/docker/registry/v2/blobs/sha256", hex[:2], hex, "data")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content[1000] ^= 1
	if err := os.WriteFile(file, content, 0o600); err != nil { // the same file
		t.Fatal(err)
	}
	if err := os.Chtimes(file, time.Time{}, info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if a := owner.get(blobPath(blob)); digest.FromBytes(a.body) == blob {
		t.Fatal("the owner does not send wrong bytes: this test is of no use")
	}
	for try := 0; ; try++ {
		a := entry.get(blobPath(blob))
		whole := a.err == nil && a.status == 200
		if whole && digest.FromBytes(a.body) != blob {
			t.Fatal("wrong bytes were passed on as whole")
		}
		if whole {
			break
		}
		if try == 5 {
			t.Fatalf("%d, %d bytes, %v", a.status, len(a.body), a.err)
		}
	}
}

// TestWrongBytesOfUpstream makes the upstream send wrong bytes once, to clients of all replicas. All clients that retry
// share one more fetch. Only the owner reports wrong bytes, from its upstream.
func TestWrongBytesOfUpstream(t *testing.T) {
	lasts(t)
	u := newRegistry(t)
	f := startFleet(t, 3, u, "")
	layer := testutil.RandomBytes(mib)
	_, blob := u.image("v1", layer)
	ranked := f.ranked(blobKey(blob))
	bad := bytes.Clone(layer)
	bad[1000] ^= 1
	wrong, right := slowly(blob.String(), bad, 8, 200*time.Millisecond), slowly(blob.String(), layer, 8, 100*time.Millisecond)
	var fetches atomic.Int64
	u.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case !strings.HasSuffix(r.URL.Path, blob.String()):
			return false
		case fetches.Add(1) == 1:
			return wrong(w, r)
		}
		return right(w, r)
	})
	var clients sync.WaitGroup
	for i := range 9 {
		clients.Go(func() {
			for try := range 3 {
				a := ranked[i%3].get(blobPath(blob))
				if a.err == nil && a.status == http.StatusOK {
					if digest.FromBytes(a.body) != blob || try != 1 {
						t.Errorf("client %d: %d bytes in try %d", i, len(a.body), try)
					}
					return
				}
			}
			t.Errorf("client %d got nothing", i)
		})
	}
	clients.Wait()
	if n := fetches.Load(); n != 2 {
		t.Errorf("%d fetches", n)
	}
	for i, r := range ranked {
		content, err := os.ReadFile(r.logFile)
		if err != nil {
			t.Fatal(err)
		}
		for _, words := range []string{"Peers sent wrong bytes", "Continuing a blob"} {
			if strings.Contains(string(content), words) {
				t.Errorf("replica %d of the ranked logs %q", i, words)
			}
		}
		if n := r.metric("registry_cache_refused_total"); n != 0 != (i == 0) {
			t.Errorf("replica %d of the ranked counts %v wrong answers", i, n)
		}
	}
}

// TestBrokenUpstream makes the upstream cut a blob at the same byte, once or every time, without support for resuming.
// The owner starts over for the clients of the other replicas. If that fails, too, they are cut, and no other replica
// tries.
func TestBrokenUpstream(t *testing.T) {
	lasts(t)
	for name, always := range map[string]bool{"once": false, "always": true} {
		t.Run(name, func(t *testing.T) {
			u := newRegistry(t)
			f := startFleet(t, 3, u, "")
			layer := testutil.RandomBytes(mib)
			_, blob := u.image("v1", layer)
			ranked := f.ranked(blobKey(blob))
			send := slowly(blob.String(), layer, 8, 100*time.Millisecond)
			var fetches atomic.Int64
			u.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case !strings.HasSuffix(r.URL.Path, blob.String()):
					return false
				case r.Header.Get("Range") != "":
					w.WriteHeader(http.StatusInternalServerError)
					return true
				case fetches.Add(1) > 1 && !always:
					return send(w, r)
				}
				w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
				_, _ = w.Write(layer[:mib/2])
				_ = http.NewResponseController(w).Flush()
				time.Sleep(500 * time.Millisecond)
				panic(http.ErrAbortHandler)
			})
			var clients sync.WaitGroup
			for i := range 6 {
				clients.Go(func() {
					a := ranked[1+i%2].get(blobPath(blob))
					whole := a.err == nil && a.status == http.StatusOK
					if whole == always || whole && digest.FromBytes(a.body) != blob {
						t.Errorf("client %d: %d, %d bytes, %v", i, a.status, len(a.body), a.err)
					}
				})
			}
			clients.Wait()
			if n := fetches.Load(); n != 2 {
				t.Errorf("%d fetches", n)
			}
		})
	}
}

// TestSecretRenewal rotates the secret in the documented order, with pulls between all steps. Hops keep working.
func TestSecretRenewal(t *testing.T) {
	lasts(t)
	u := newRegistry(t)
	f := startFleet(t, 3, u, "")
	older, newer := f.secret, strings.Repeat("n", 32)
	check := func(what string, gets int) {
		t.Helper()
		blob := f.owned(u, f.replicas[0])
		pullAll(t, f.replicas, blob, 3, 1)
		if n := u.count("GET " + blob.String()); n > gets {
			t.Errorf("%s: %d GETs", what, n)
		}
	}
	for _, lines := range [][]string{{older, newer}, {newer, older}, {newer}} {
		for _, r := range f.replicas {
			r.writeSecret(lines...)
			time.Sleep(1100 * time.Millisecond) // each is read once a second
			check(r.name, 1)
		}
	}
	// Any other order causes more fetches, but no failed pulls.
	f.replicas[0].writeSecret(older)
	time.Sleep(1100 * time.Millisecond)
	check("another order", 3)
}

// TestDrainOfOwner terminates the owner in the middle of transfers to other replicas and to its clients. The transfers
// finish, and the next owner serves new requests immediately.
func TestDrainOfOwner(t *testing.T) {
	lasts(t)
	u := newRegistry(t)
	layer := testutil.RandomBytes(mib)
	_, blob := u.image("v1", layer)
	f := newFleet(t, 3, u, "drain: 20s")
	ranked := f.ranked(blobKey(blob))
	for _, r := range f.replicas {
		r.start()
	}
	u.misbehave(slowly(blob.String(), layer, 8, 500*time.Millisecond))
	pulled := make(chan []pull, 1)
	go func() { pulled <- pullAll(t, ranked, blob, 6, 1) }()
	testutil.Eventually(t, "the transfer runs", func() bool { return ranked[1].metric("registry_cache_relayed_bytes_total") > 0 })
	ended := make(chan struct{})
	go func() { ranked[0].end(); close(ended) }()
	testutil.Eventually(t, "it leaves", func() bool { return ranked[0].get("/ready").status != 200 })
	begun := time.Now()
	cold := f.owned(u, ranked[0])
	pullAll(t, ranked[1:], cold, 2, 1)
	t.Logf("a cold blob of the draining replica: %v", time.Since(begun))
	<-pulled
	<-ended
	if n := u.count("GET " + blob.String()); n != 1 {
		t.Errorf("%d GETs", n)
	}
	if n := u.count("GET " + cold.String()); n != 1 {
		t.Errorf("%d GETs of the cold blob", n)
	}
}

// TestSplitViews runs replicas that do not know all others, or know them at wrong addresses. This causes more fetches,
// but no wrong content.
func TestSplitViews(t *testing.T) {
	for name, view := range map[string]func(f *fleet, i, j int) int{
		"one is not known": func(f *fleet, i, j int) int {
			if i == 0 && j == 1 || i == 2 && j == 0 {
				return 0
			}
			return f.replicas[j].hop
		},
		"addresses were inherited": func(f *fleet, i, j int) int {
			if i == 0 && j != 0 {
				j = 3 - j
			}
			return f.replicas[j].hop
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := newRegistry(t)
			f := newFleet(t, 3, u, "")
			f.hopOf = func(i, j int) int { return view(f, i, j) }
			for _, r := range f.replicas {
				r.start()
			}
			for i := range 3 {
				blob := f.owned(u, f.replicas[i])
				pullAll(t, f.replicas, blob, 9, 1)
				if n := u.count("GET " + blob.String()); n > 2 {
					t.Errorf("%d GETs of what %s owns", n, f.replicas[i].name)
				}
			}
		})
	}
}

// TestStrangers checks that unknown clients get nothing at the port for replicas, not even probes.
func TestStrangers(t *testing.T) {
	u := newRegistry(t)
	manifest, blob := u.image("v1", []byte("layer"))
	f := startFleet(t, 2, u, "")
	pullAll(t, f.replicas, blob, 2, 1)
	for _, path := range []string{
		"/alive", "/ready", "/metrics", "/v2/", blobPath(blob) + "?ns=up.example", "/v2/a/b/manifests/" + digest.FromBytes(manifest).String(),
		"/registry-cache/alive",
	} {
		req, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:"+strconv.Itoa(f.replicas[0].hop)+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Registry-Cache-Hop", "v=1, from=registry-cache-1")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if n := f.replicas[0].metric("registry_cache_hops_refused_total"); n != 7 {
		t.Errorf("%v refusals are counted", n)
	}
}
