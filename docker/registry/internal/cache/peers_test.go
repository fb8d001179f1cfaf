// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/config"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

var quietLog = slog.New(slog.DiscardHandler)

// TestOneFetch pulls a cold blob with 100 clients through three replicas.
func TestOneFetch(t *testing.T) {
	u := newRegistry(t)
	_, blob := u.image("v1", testutil.RandomBytes(8*mib))
	f := startFleet(t, 3, u, "")
	pullAll(t, f.replicas, blob, 100, 1)
	if n := u.count("GET " + blob.String()); n != 1 {
		t.Errorf("%d GETs", n)
	}
	hops, misses := 0.0, 0.0
	for _, r := range f.replicas {
		hops += r.metric("registry_cache_hops_total")
		misses += r.metric(`registry_cache_requests_total{kind="blob",result="miss",upstream="up.example"}`)
	}
	// Two replicas ask the owner, which asks both for stored content.
	if hops < 4 || misses < 1 {
		t.Errorf("%v hops, %v misses", hops, misses)
	}
	// Relayed content is now served from the store.
	for _, r := range f.replicas {
		if a := r.get(blobPath(blob)); a.status != 200 || digest.FromBytes(a.body) != blob {
			t.Errorf("%s: %d, %d bytes", r.name, a.status, len(a.body))
		}
	}
	if again := sum(f, "registry_cache_hops_total"); again != hops {
		t.Errorf("%v hops after the second pull", again)
	}
}

func sum(f *fleet, metric string) (total float64) {
	for _, r := range f.replicas {
		total += r.metric(metric)
	}
	return total
}

// slowly returns a fault that sends a blob in pieces, with pauses.
func slowly(name string, layer []byte, pieces int, every time.Duration) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, name) {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
		for rest := range slices.Chunk(layer, (len(layer)+pieces-1)/pieces) {
			if _, err := w.Write(rest); err != nil {
				return true
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(every):
			case <-r.Context().Done():
				return true
			}
		}
		return true
	}
}

// TestSlowFetch checks that a slow blob is streamed to clients of all replicas while it is fetched.
func TestSlowFetch(t *testing.T) {
	lasts(t)
	u := newRegistry(t)
	layer := testutil.RandomBytes(6 * mib)
	_, blob := u.image("v1", layer)
	u.misbehave(slowly(blob.String(), layer, 12, 500*time.Millisecond))
	f := startFleet(t, 3, u, "")
	begun := time.Now()
	pulls := pullAll(t, f.replicas, blob, 60, 1)
	took := time.Since(begun)
	first := time.Duration(0)
	for _, p := range pulls {
		first = max(first, p.first)
	}
	t.Logf("first byte at most %v, all of it %v", first, took)
	if n := u.count("GET " + blob.String()); n != 1 || first > 3*time.Second || took > 15*time.Second {
		t.Errorf("%d GETs, first byte %v, end %v", n, first, took)
	}
}

// TestSlowFirstByte checks that an owner that waits for a slow upstream is not considered dead.
func TestSlowFirstByte(t *testing.T) {
	lasts(t)
	u := newRegistry(t)
	_, blob := u.image("v1", testutil.RandomBytes(mib))
	u.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, blob.String()) {
			time.Sleep(4 * time.Second)
		}
		return false
	})
	f := startFleet(t, 3, u, "")
	pullAll(t, f.replicas, blob, 9, 1)
	n := u.count("GET " + blob.String())
	t.Logf("%d GETs", n) // 1, unless the owner is so starved of CPU that it does not answer probes
	if n > 2 {
		t.Errorf("%d GETs", n)
	}
}

// TestOwnerDies kills or stops the owner of a blob before and during a transfer.
func TestOwnerDies(t *testing.T) {
	lasts(t)
	for name, end := range map[string]func(*replica){"killed": (*replica).kill, "stopped": (*replica).stop} {
		t.Run(name, func(t *testing.T) {
			u := newRegistry(t)
			layer := testutil.RandomBytes(4 * mib)
			_, blob := u.image("v1", layer)
			f := startFleet(t, 3, u, "")
			ranked := f.ranked(blobKey(blob))
			u.misbehave(slowly(blob.String(), layer, 16, 250*time.Millisecond))
			pulled := make(chan []pull, 1)
			go func() { pulled <- pullAll(t, ranked[1:], blob, 10, 1) }()
			testutil.Eventually(t, "the transfer runs", func() bool { return ranked[1].metric("registry_cache_relayed_bytes_total") > mib })
			end(ranked[0])
			pulls := <-pulled // no client is cut: the relay continues with the next member
			longest := time.Duration(0)
			for _, p := range pulls {
				longest = max(longest, p.took)
			}
			n := u.count("GET " + blob.String())
			t.Logf("%d GETs, the last client ended after %v", n, longest)
			if n > 3 { // 2, unless another replica is so starved of CPU that it is given up
				t.Errorf("%d GETs", n)
			}
			u.misbehave(nil)
			cold := f.owned(u, ranked[0])
			begun := time.Now()
			pullAll(t, ranked[1:], cold, 2, 1)
			t.Logf("a cold blob of the owner that is %s: %v", name, time.Since(begun))
			if n := u.count("GET " + cold.String()); n > 2 {
				t.Errorf("%d GETs of a cold blob", n)
			}
		})
	}
}

// owned adds a blob that the given replica owns.
func (f *fleet) owned(u *registry, owner *replica) digest.Digest {
	for {
		if d := u.put(nil, testutil.RandomBytes(100<<10+len(u.content))); f.ranked(blobKey(d))[0] == owner {
			return d
		}
	}
}

// TestTakeOver measures how long a cold blob takes if its owner has just been stopped or killed.
func TestTakeOver(t *testing.T) {
	lasts(t)
	for name, end := range map[string]func(*replica){"killed": (*replica).kill, "stopped": (*replica).stop} {
		t.Run(name, func(t *testing.T) {
			u := newRegistry(t)
			f := startFleet(t, 3, u, "")
			blob := f.owned(u, f.replicas[0])
			warm := f.owned(u, f.replicas[0])
			pullAll(t, f.replicas, warm, 3, 1) // opens connections that are idle afterwards
			end(f.replicas[0])
			begun := time.Now()
			pullAll(t, f.replicas[1:], blob, 2, 1)
			took := time.Since(begun)
			t.Logf("taken over after %v, %d GETs", took, u.count("GET "+blob.String()))
			if took > 15*time.Second { // about 2 s on an idle machine
				t.Errorf("taken over after %v", took)
			}
		})
	}
}

// TestEmptyOwner restarts each replica in turn with an empty store. Content that another replica has is not fetched
// again.
func TestEmptyOwner(t *testing.T) {
	lasts(t)
	u := newRegistry(t)
	f := startFleet(t, 3, u, "")
	var blobs []digest.Digest
	for range 6 {
		_, d := u.image("v1", testutil.RandomBytes(mib))
		blobs = append(blobs, d)
		pullAll(t, f.replicas, d, 3, 1)
	}
	for _, r := range f.replicas {
		r.end()
		r.empty()
		r.start()
		for _, d := range blobs {
			pullAll(t, f.replicas, d, 3, 3)
		}
	}
	again := -len(blobs)
	for _, d := range blobs {
		again += u.count("GET " + d.String())
	}
	t.Logf("%d GETs after the first ones", again)
	if again > 2 { // 0, unless a replica is so starved of CPU that it does not answer in time
		t.Errorf("%d GETs after the first ones", again)
	}
}

// TestBrokenUpstreamOfOwner breaks the upstream of only the owner. No pull fails.
func TestBrokenUpstreamOfOwner(t *testing.T) {
	lasts(t)
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"503": func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		},
		"silent": func(_ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			u, broken := newRegistry(t), newRegistry(t)
			broken.misbehave(fault)
			broken.everything = true
			f := newFleet(t, 2, u, "")
			f.url = func(i int) string { return []string{broken.URL, u.URL}[i] }
			for _, r := range f.replicas {
				r.start()
			}
			for range 2 {
				blob, tag := f.owned(u, f.replicas[0]), f.ownedTag(u, f.replicas[0])
				for _, r := range []*replica{f.replicas[1], f.replicas[0]} {
					if a := r.get(blobPath(blob)); a.status != 200 || digest.FromBytes(a.body) != blob {
						t.Errorf("blob at %s: %d, %s", r.name, a.status, a.body[:min(len(a.body), 200)])
					}
					if a := r.get("/v2/a/b/manifests/" + tag); a.status != 200 {
						t.Errorf("tag at %s: %d, %s", r.name, a.status, a.body)
					}
				}
			}
		})
	}
}

// TestUpstreamSilentForAll checks that a request for unknown content ends when the requested replica and one other know
// that the upstream is silent. Later requests take no longer than one challenge.
func TestUpstreamSilentForAll(t *testing.T) {
	lasts(t)
	u := newRegistry(t)
	u.everything = true
	u.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	})
	f := startFleet(t, 3, u, "")
	for i, kind := range []string{"blob", "blob", "blob", "tag", "blob", "pause", "blob", "blob", "pause", "tag", "tag", "pause", "blob", "pause", "tag"} {
		if kind == "pause" {
			time.Sleep(3200 * time.Millisecond) // the outage is forgotten
			continue
		}
		path := "/v2/a/b/manifests/" + fmt.Sprint("unknown", i)
		if kind == "blob" {
			path = blobPath(digest.FromString(path))
		}
		begun := time.Now()
		a := f.replicas[i%3].get(path)
		took := time.Since(begun)
		most := 2500 * time.Millisecond
		if i == 0 {
			most = 5500 * time.Millisecond
		}
		t.Logf("%s %d: %d after %v", kind, i, a.status, took)
		if a.status != http.StatusGatewayTimeout || took > most {
			t.Errorf("%s %d: %d after %v", kind, i, a.status, took)
		}
	}
}

// ownedTag adds a tag that the given replica owns.
func (f *fleet) ownedTag(u *registry, owner *replica) string {
	for i := 0; ; i++ {
		tag := "tag-" + strconv.Itoa(i) + "-" + strconv.Itoa(int(tags.Add(1)))
		if f.ranked("up.example/v2/a/b/manifests/" + tag)[0] == owner {
			u.image(tag, []byte(tag))
			return tag
		}
	}
}

var tags atomic.Int64

// TestSharedTags requests a tag from all replicas at the same time. It causes one check and one manifest fetch.
func TestSharedTags(t *testing.T) {
	u := newRegistry(t)
	manifest, _ := u.image("v1", []byte("layer"))
	u.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/v1") {
			time.Sleep(time.Second)
		}
		return false
	})
	f := startFleet(t, 3, u, "tags: {ttl: 1m}")
	answers := make(chan answer, 30)
	for i := range 30 {
		go func() { answers <- f.replicas[i%3].get("/v2/a/b/manifests/v1") }()
	}
	for range 30 {
		if a := <-answers; a.status != 200 || string(a.body) != string(manifest) {
			t.Errorf("%d, %s", a.status, a.body)
		}
	}
	if heads, gets := u.count("HEAD v1"), u.count("GET v1")+u.count("GET "+digest.FromBytes(manifest).String()); heads+gets > 2 || gets != 1 {
		t.Errorf("%d HEADs, %d GETs", heads, gets)
	}
	// The age of an answer is passed on by the hop.
	time.Sleep(1100 * time.Millisecond)
	for _, r := range f.replicas {
		if a := r.get("/v2/a/b/manifests/v1"); a.header.Get("Age") == "" || a.header.Get("Age") == "0" {
			t.Errorf("age %q at %s", a.header.Get("Age"), r.name)
		}
	}
	// Missing content is requested only once, too.
	for _, r := range f.replicas {
		if a := r.get("/v2/a/b/manifests/none"); a.status != 404 {
			t.Errorf("%s: %d", r.name, a.status)
		}
	}
	if n := u.count("HEAD none") + u.count("GET none"); n > 2 {
		t.Errorf("%d requests for a tag that is not there", n)
	}
}

// TestInvalidPeers checks that New returns a clear error immediately.
func TestInvalidPeers(t *testing.T) {
	u := newRegistry(t)
	taken := testutil.Listen(t)
	defer taken.Close()
	short, good := filepath.Join(t.TempDir(), "short"), filepath.Join(t.TempDir(), "good")
	for file, content := range map[string]string{short: "short", good: strings.Repeat("s", 32)} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for key, of := range map[string]config.Peers{
		"peers.listen ":  {Listen: taken.Addr().String(), Secret: good},
		"peers.secret: ": {Listen: "127.0.0.1:0", Secret: short},
	} {
		c := configuration(t, t.TempDir(), "", u)
		of.Name, of.Members = "a", []config.Member{{Name: "b", Address: "127.0.0.1:1"}}
		c.Peers = &of
		_, err := New(c, quietLog, quietLog)
		if err == nil || !strings.HasPrefix(err.Error(), key) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "; ") {
			t.Errorf("%s: %v", key, err)
		}
	}
}
