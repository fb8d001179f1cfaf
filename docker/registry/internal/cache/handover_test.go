// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// output returns the log of a replica.
func (r *replica) output() string {
	content, err := os.ReadFile(r.logFile)
	if err != nil {
		r.fleet.t.Fatal(err)
	}
	return string(content)
}

// logged fails the test unless the last line of a replica's log with a message has all the words.
func (r *replica) logged(message string, words ...string) {
	r.fleet.t.Helper()
	last := ""
	for line := range strings.Lines(r.output()) {
		if strings.Contains(line, message) {
			last = line
		}
	}
	for _, word := range words {
		if !strings.Contains(last, word) {
			r.fleet.t.Errorf("%s: %q has no %s", r.name, last, word)
		}
	}
}

const (
	handedOver = "Handed over stored content"
	copiedFrom = "Copied stored content"
)

// stored waits until a replica has stored a blob, with its link.
func (r *replica) stored(d digest.Digest) {
	r.fleet.t.Helper()
	testutil.Eventually(r.fleet.t, "it is stored", func() bool {
		content, err := os.ReadFile(r.data(d))
		return err == nil && digest.FromBytes(content) == d && r.metric("registry_cache_fills") == 0
	})
}

// tagged waits until a replica has stored a tag, which comes after its manifest.
func (r *replica) tagged(tag string) {
	r.fleet.t.Helper()
	link := filepath.Join(r.root, "upstreams/up.example/docker/registry/v2/repositories/a/b/_manifests/tags", tag, "current/link")
	testutil.Eventually(r.fleet.t, "the tag is stored", func() bool {
		_, err := os.Stat(link)
		return err == nil
	})
}

// data returns the file of a blob.
func (r *replica) data(d digest.Digest) string {
	return filepath.Join(r.root, "upstreams/up.example/docker/registry/v2/blobs/sha256", d.Encoded()[:2], d.Encoded(), "data")
}

// TestHandover restarts each of three replicas in turn with an empty store, while nobody asks for anything. Then everything is
// served without the upstream.
func TestHandover(t *testing.T) {
	lasts(t)
	u := newRegistry(t)
	f := startFleet(t, 3, u, "")
	type image struct {
		tag             string
		manifest, layer digest.Digest
	}
	var images []image
	for i := range 9 {
		tag := fmt.Sprint("v", i)
		manifest, layer := u.image(tag, testutil.RandomBytes(mib))
		images = append(images, image{tag, digest.FromBytes(manifest), layer})
		r := f.replicas[i%3]
		for _, path := range []string{"/v2/a/b/manifests/" + tag, "/v2/a/b/manifests/" + string(images[i].manifest), blobPath(layer)} {
			if a := r.get(path); a.status != 200 {
				t.Fatalf("%s: %d", path, a.status)
			}
		}
		r.stored(layer)
		r.tagged(tag)
	}
	for _, r := range f.replicas {
		r.end()
		r.logged(handedOver, "no_room=0", "failed=0", "complete=true")
		r.empty()
		r.start()
	}
	if copied := sum(f, "registry_cache_handed_over_bytes_total"); copied < mib {
		t.Errorf("%v bytes handed over", copied)
	}
	for _, of := range images {
		for _, what := range []string{"GET " + string(of.layer), "GET " + string(of.manifest)} {
			if n := u.count(what); n > 1 {
				t.Errorf("%s: %d", what, n)
			}
		}
	}
	u.misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	for i, of := range images {
		for j, path := range []string{"/v2/a/b/manifests/" + of.tag, "/v2/a/b/manifests/" + string(of.manifest), blobPath(of.layer)} {
			want := of.manifest
			if j == 2 {
				want = of.layer
			}
			if a := f.replicas[(i+j)%3].get(path); a.status != 200 || digest.FromBytes(a.body) != want {
				t.Errorf("%s: %d, %d bytes", path, a.status, len(a.body))
			}
		}
	}
}

// TestHandoverOfWrongBytes has a replica that leaves with a blob that its disk has changed. Nobody stores it, and the upstream is
// asked when a client asks.
func TestHandoverOfWrongBytes(t *testing.T) {
	u := newRegistry(t)
	f := startFleet(t, 2, u, "")
	leaving, other := f.replicas[0], f.replicas[1]
	wrong, right := f.owned(u, leaving), f.owned(u, leaving)
	pullAll(t, []*replica{leaving}, wrong, 1, 1)
	pullAll(t, []*replica{leaving}, right, 1, 1)
	leaving.stored(wrong)
	leaving.stored(right)
	info, err := os.Stat(leaving.data(wrong))
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(leaving.data(wrong))
	if err != nil {
		t.Fatal(err)
	}
	content[1000] ^= 1
	if err := os.WriteFile(leaving.data(wrong), content, 0o600); err != nil { // the same file
		t.Fatal(err)
	}
	if err := os.Chtimes(leaving.data(wrong), time.Time{}, info.ModTime()); err != nil {
		t.Fatal(err)
	}
	leaving.end()
	other.logged(copiedFrom, "copied=1", "failed=1", "complete=true")
	other.stored(right)
	if _, err := os.Stat(other.data(wrong)); err == nil {
		t.Error("wrong bytes are stored")
	}
	if n := u.count("GET " + string(wrong)); n != 1 {
		t.Errorf("%d GETs because of the handover", n)
	}
	pullAll(t, []*replica{other}, wrong, 1, 1)
	pullAll(t, []*replica{other}, right, 1, 1)
	if w, r := u.count("GET "+string(wrong)), u.count("GET "+string(right)); w != 2 || r != 1 {
		t.Errorf("%d and %d GETs", w, r)
	}
}

// A standIn takes the place of a replica in a fleet, and answers hops as a test says.
type standIn struct {
	*peer.Peers
	server *http.Server
}

func (f *fleet) standIn(r *replica, answer http.HandlerFunc) *standIn {
	f.t.Helper()
	var members []peer.Member
	for _, other := range f.replicas {
		members = append(members, peer.Member{Name: other.name, Address: fmt.Sprintf("127.0.0.1:%d", other.hop)})
	}
	p, err := peer.New(peer.Options{Self: r.name, Members: members, Secret: r.secret, Log: quietLog})
	if err != nil {
		f.t.Fatal(err)
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", r.hop))
	if err != nil {
		f.t.Fatal(err)
	}
	s := &standIn{p, &http.Server{Handler: p.Handler(answer)}}
	go func() { _ = s.server.Serve(l) }()
	f.t.Cleanup(func() { _ = s.server.Close(); p.Close() })
	return s
}

// TestHandoverToOthers ends a replica beside one that cannot copy: at once, or when the drain time is over. A third one gets
// what that one refuses.
func TestHandoverToOthers(t *testing.T) {
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		drain  time.Duration
		third  bool
		least  time.Duration
	}{
		"an older program": {
			answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMisdirectedRequest) },
			drain:  time.Minute, third: true,
		},
		"it refuses": {
			answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
			drain:  time.Minute,
		},
		"killed": {
			answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			drain:  time.Minute, third: true,
		},
		"not JSON": {
			answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
			drain:  time.Minute, third: true,
		},
		"the drain time is over": {
			answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			drain:  4 * time.Second, least: 1900 * time.Millisecond,
		},
	} {
		t.Run(name, func(t *testing.T) {
			lasts(t)
			u := newRegistry(t)
			f := newFleet(t, 3, u, "drain: "+test.drain.String())
			leaving, other, third := f.replicas[0], f.replicas[1], f.replicas[2]
			asked := make(chan string, 100)
			f.standIn(other, func(w http.ResponseWriter, r *http.Request) {
				if hop, _ := peer.FromContext(r.Context()); hop.StoreOnly {
					http.Error(w, "{}", http.StatusNotFound)
					return
				}
				asked <- r.URL.Path
				test.answer(w, r)
			})
			leaving.start()
			if test.third {
				third.start()
			}
			var blobs []digest.Digest
			for range 4 { // owned by the stand-in after the replica that leaves
				d := f.owned(u, leaving)
				for f.ranked(blobKey(d))[1] != other {
					d = f.owned(u, leaving)
				}
				blobs = append(blobs, d)
				pullAll(t, []*replica{leaving}, d, 1, 1)
				leaving.stored(d)
			}
			begun := time.Now()
			leaving.end()
			took := time.Since(begun)
			t.Logf("it took %v", took)
			if got := <-asked; got != leavingURI {
				t.Errorf("asked %s", got)
			}
			if took < test.least || test.least > 0 && took > test.drain {
				t.Errorf("it took %v", took)
			}
			if !test.third {
				leaving.logged(handedOver, "copied=0", fmt.Sprint("complete=", test.least == 0))
				return
			}
			leaving.logged(handedOver, "copied=4", "complete=true")
			for _, d := range blobs {
				third.stored(d)
				if n := u.count("GET " + string(d)); n != 1 {
					t.Errorf("%d GETs", n)
				}
			}
		})
	}
}

// TestOffers lists what a replica has stored, the most recently used content first, and whether its store outlives it.
func TestOffers(t *testing.T) {
	lasts(t)
	u := newRegistry(t)
	f := newFleet(t, 2, u, "")
	leaving, other := f.replicas[0], f.replicas[1]
	var old *standIn
	lists := make(chan []offer, 10)
	old = f.standIn(other, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != leavingURI {
			w.WriteHeader(http.StatusMisdirectedRequest)
			return
		}
		resp, err := old.Do(context.Background(), leaving.name, http.MethodGet, storedURI, nil, peer.CallOptions{StoreOnly: true})
		if err != nil {
			t.Error(err)
			return
		}
		var list []offer
		if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
			t.Error(err)
		}
		lists <- list
		_, _ = w.Write([]byte("{}"))
	})
	leaving.start()
	if resp, err := old.Do(t.Context(), leaving.name, http.MethodGet, storedURI, nil, peer.CallOptions{StoreOnly: true}); err != nil {
		t.Error(err)
	} else if content, _ := io.ReadAll(resp.Body); string(content) != "null" {
		t.Errorf("it offers content although it stays: %s", content)
	}
	manifest, layer := u.image("v1", testutil.RandomBytes(mib))
	small := f.owned(u, leaving)
	of := digest.FromBytes(manifest)
	paths := []string{blobPath(layer), "/v2/a/b/manifests/v1", "/v2/a/b/manifests/" + string(of), blobPath(small)}
	for _, path := range paths {
		if a := leaving.get(path); a.status != 200 {
			t.Fatalf("%s: %d", path, a.status)
		}
	}
	leaving.stored(layer)
	leaving.stored(small)
	leaving.tagged("v1")
	if a := leaving.get(blobPath(small)); a.status != 200 { // the last use
		t.Fatal(a.status)
	}
	for _, kept := range []bool{false, true} {
		leaving.end()
		list := <-lists
		var got []string
		for _, o := range list {
			path, ns, _ := strings.Cut(o.URI, "?")
			got = append(got, path)
			if o.Kept != kept || ns != "ns=up.example" || o.Size == 0 || o.Age < 0 || o.Age > time.Minute.Milliseconds() {
				t.Errorf("%+v", o)
			}
		}
		if len(got) != len(paths) || !kept && got[0] != blobPath(small) { // a restart keeps the order by the minute
			t.Errorf("offered %q", got)
		}
		for _, path := range paths {
			if !slices.Contains(got, path) {
				t.Errorf("%s is not offered", path)
			}
		}
		leaving.start() // with what it has stored
	}
}

// TestHandoverToNobody ends a replica beside one that drains, too, because of a slow client: neither waits for the other.
func TestHandoverToNobody(t *testing.T) {
	lasts(t)
	u := newRegistry(t)
	f := startFleet(t, 2, u, "")
	first, second := f.replicas[0], f.replicas[1]
	blob := f.owned(u, second)
	pullAll(t, []*replica{second}, blob, 1, 1)
	second.stored(blob)
	layer := testutil.RandomBytes(mib)
	slow := u.put(nil, layer)
	for f.ranked(blobKey(slow))[0] != first {
		layer = testutil.RandomBytes(mib)
		slow = u.put(nil, layer)
	}
	u.misbehave(slowly(string(slow), layer, 16, 500*time.Millisecond))
	var pulling sync.WaitGroup
	pulling.Go(func() { pullAll(t, []*replica{first}, slow, 1, 1) })
	testutil.Eventually(t, "the transfer runs", func() bool { return first.metric("registry_cache_fills") > 0 })
	var ending sync.WaitGroup
	ending.Go(first.end)
	testutil.Eventually(t, "it drains", func() bool { return strings.Contains(first.output(), handedOver) })
	begun := time.Now()
	second.end()
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
	second.logged(handedOver, "copied=0", "complete=true")
	pulling.Wait()
	ending.Wait()
}

// TestHandoverIsInterrupted has a leaving replica vanish in the middle of a blob, and another one copy nothing any more when it
// is told to end itself. Nothing of the blob stays, and clients get it from the upstream.
func TestHandoverIsInterrupted(t *testing.T) {
	lasts(t)
	for _, name := range []string{"the leaving replica is killed", "the other replica ends"} {
		t.Run(name, func(t *testing.T) {
			u := newRegistry(t)
			f := newFleet(t, 2, u, "drain: 10s")
			leaving, other := f.replicas[0], f.replicas[1]
			layer := testutil.RandomBytes(mib)
			_, blob := u.image("v1", layer)
			sending := make(chan struct{})
			old := f.standIn(leaving, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == storedURI:
					_ = json.NewEncoder(w).Encode([]offer{{blobPath(blob) + "?ns=up.example", int64(len(layer)), 0, false}})
				case strings.HasSuffix(r.URL.Path, string(blob)):
					w.Header().Set("Content-Length", fmt.Sprint(len(layer)))
					for part := range 200 {
						_, _ = w.Write(layer[part*1000 : part*1000+1000])
						_ = http.NewResponseController(w).Flush()
						if part == 10 {
							close(sending)
						}
						select {
						case <-r.Context().Done():
							return
						case <-time.After(100 * time.Millisecond):
						}
					}
				default:
					http.Error(w, "{}", http.StatusNotFound)
				}
			})
			other.start()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			failed := make(chan string, 1)
			go func() {
				resp, err := old.Do(ctx, other.name, http.MethodGet, leavingURI, nil, peer.CallOptions{})
				if err == nil {
					failed <- resp.Status
					_ = resp.Body.Close()
					return
				}
				failed <- err.Error()
			}()
			<-sending
			if n := u.count("GET " + string(blob)); n != 0 {
				t.Errorf("%d GETs because of the handover", n)
			}
			if name == "the other replica ends" {
				begun := time.Now()
				other.end()
				if took := time.Since(begun); took > 4*time.Second {
					t.Errorf("it took %v", took)
				}
				if got := <-failed; strings.HasPrefix(got, "200") {
					t.Errorf("the leaving replica believes that all was copied: %s", got)
				}
				return
			}
			cancel()
			_ = old.server.Close()
			testutil.Eventually(t, "the handover ends", func() bool { return strings.Contains(other.output(), copiedFrom) })
			other.logged(copiedFrom, "copied=0")
			testutil.Eventually(t, "the part is removed", func() bool {
				left, err := os.ReadDir(filepath.Join(other.root, "tmp"))
				return err == nil && len(left) == 0
			})
			pullAll(t, []*replica{other}, blob, 1, 1)
			if n := u.count("GET " + string(blob)); n != 1 {
				t.Errorf("%d GETs", n)
			}
		})
	}
}

// TestHandoverIsNoUse ends a replica that will return with its content. Its content keeps the order of use on disk, although
// another replica has read all of it.
func TestHandoverIsNoUse(t *testing.T) {
	u := newRegistry(t)
	f := startFleet(t, 2, u, "")
	leaving, other := f.replicas[0], f.replicas[1]
	var blobs []digest.Digest
	for range 3 {
		d := f.owned(u, leaving)
		pullAll(t, []*replica{leaving}, d, 1, 1)
		leaving.stored(d)
		blobs = append(blobs, d)
	}
	other.kill()
	leaving.end()
	other.empty()
	for i, d := range blobs {
		at := time.Now().Add(-time.Duration(10-i) * time.Hour)
		if err := os.Chtimes(leaving.data(d), at, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	other.start()
	leaving.start()
	leaving.end()
	leaving.logged(handedOver, "copied=3", "complete=true")
	for i, d := range blobs {
		info, err := os.Stat(leaving.data(d))
		if err != nil {
			t.Fatal(err)
		}
		age := time.Since(time.Unix(info.Sys().(*syscall.Stat_t).Atim.Unix()))
		if want := time.Duration(10-i) * time.Hour; age < want-time.Minute {
			t.Errorf("the handover counts as a use: %v, not %v", age, want)
		}
	}
}
