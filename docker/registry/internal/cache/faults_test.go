// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestWrongBytesOfOwner has the owner's disk change a stored blob behind its back: what it sends is never whole at another
// replica, and the client has the blob at last.
func TestWrongBytesOfOwner(t *testing.T) {
	u := newRegistry(t)
	f := startFleet(t, 3, u, "")
	blob := f.owned(u, f.replicas[0])
	owner, entry := f.replicas[0], f.replicas[1]
	pullAll(t, []*replica{owner}, blob, 1, 1)
	until(t, "it is stored", func() bool { return owner.metric("registry_cache_fills") == 0 })
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

// TestSecretRenewal follows the documented order, with pulls between all steps: hops go on.
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
	// Any other order costs fetches, and no pull.
	f.replicas[0].writeSecret(older)
	time.Sleep(1100 * time.Millisecond)
	check("another order", 3)
}

// TestDrainOfOwner tells the owner to end in the middle of transfers to others and to its own clients: they end, and the next
// owner has the new ones at once.
func TestDrainOfOwner(t *testing.T) {
	lasts(t)
	u := newRegistry(t)
	layer := randomBytes(mib)
	_, blob := u.image("v1", layer)
	f := newFleet(t, 3, u, "drain: 20s")
	ranked := f.ranked(blobKey(blob))
	for _, r := range f.replicas {
		r.start()
	}
	u.misbehave(slowly(blob.String(), layer, 8, 500*time.Millisecond))
	pulled := make(chan []pull, 1)
	go func() { pulled <- pullAll(t, ranked, blob, 6, 1) }()
	until(t, "the transfer runs", func() bool { return ranked[1].metric("registry_cache_relayed_bytes_total") > 0 })
	ended := make(chan struct{})
	go func() { ranked[0].end(); close(ended) }()
	until(t, "it leaves", func() bool { return ranked[0].get("/ready").status != 200 })
	begun := time.Now()
	cold := f.owned(u, ranked[0])
	pullAll(t, ranked[1:], cold, 2, 1)
	t.Logf("a cold blob of the replica that drains: %v", time.Since(begun))
	<-pulled
	<-ended
	if n := u.count("GET " + blob.String()); n != 1 {
		t.Errorf("%d GETs", n)
	}
	if n := u.count("GET " + cold.String()); n != 1 {
		t.Errorf("%d GETs of the cold blob", n)
	}
}

// TestSplitViews has replicas that do not know all others, and some at wrong addresses: more fetches, and no wrong content.
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

// TestStrangers at the port for replicas get nothing, and no probes.
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
