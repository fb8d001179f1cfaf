// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

func TestRestartDuringAnOutage(t *testing.T) {
	kept := newStore()
	inBubble(t, Options{}, kept, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		h.get(tagURI)
		time.Sleep(1100 * time.Millisecond)
		h.says(has(ociIndex, twoBody)) // the tag moves
		h.get(tagURI)
	})
	inBubble(t, Options{}, kept, func(h *handle) {
		h.says(hangs)
		for _, body := range []string{oneBody, twoBody} {
			r := h.get("/v2/p/i/manifests/" + sha(body))
			h.wantFresh(r, body)
			if r.took != 0 || r.result != Hit || r.Header().Get("Content-Type") != sniff([]byte(body)) {
				t.Errorf("%v %s %v", r.took, r.result, r.Header())
			}
		}
		h.wantAsked("", 0)
		h.wantStale(h.get(tagURI), twoBody, 2*time.Second)
		h.wantStale(h.get(tagURI), twoBody, 0)
		h.want(h.get("/v2/p/other/manifests/1.0"), 504, "")
		h.says(has(ociManifest, oneBody))
		time.Sleep(3 * time.Second)
		h.wantFresh(h.get(tagURI), oneBody)
	})
}

// TestSchema1 checks that the digest of a signed schema 1 manifest covers the signed part, and that the store uses the
// digest of all bytes.
func TestSchema1(t *testing.T) {
	const (
		body    = `{"a":1,"signatures":[{"protected":"eyJmb3JtYXRMZW5ndGgiOjYsImZvcm1hdFRhaWwiOiJmUSJ9"}]}`
		payload = `{"a":1}`
	)
	a := ok(dockerSchema1Signed, body)
	a.Header.Set("Docker-Content-Digest", sha(payload))
	kept := newStore()
	inBubble(t, Options{}, kept, func(h *handle) {
		h.says(func(context.Context, route.Request, string) (*Answer, error) { return a, nil })
		for range 2 {
			if r := h.get(tagURI); r.Body.String() != body || r.Header().Get("Docker-Content-Digest") != sha(payload) {
				t.Error(r.Code, r.Header())
			}
		}
	})
	for path := range kept.files {
		if strings.HasPrefix(path, rootPath+"blobs/") && path != dataPath(digest.FromString(body)) {
			t.Error(path)
		}
	}
	inBubble(t, Options{}, kept, func(h *handle) {
		h.says(hangs)
		if r := h.get("/v2/p/i/manifests/" + sha(payload)); r.Body.String() != body || r.Header().Get("Content-Type") != dockerSchema1Signed {
			t.Error(r.Code, r.Header())
		}
		h.wantStale(h.get(tagURI), body, 2*time.Second)
	})
}

// TestTagWithAnotherAlgorithm checks that the store uses only sha256 digests.
func TestTagWithAnotherAlgorithm(t *testing.T) {
	kept := newStore()
	inBubble(t, Options{}, kept, func(h *handle) {
		a := ok(ociManifest, oneBody)
		a.Header.Set("Docker-Content-Digest", sha512(oneBody))
		h.says(func(context.Context, route.Request, string) (*Answer, error) { return a, nil })
		if r := h.get(tagURI); r.Header().Get("Docker-Content-Digest") != sha512(oneBody) {
			t.Error(r.Header())
		}
	})
	for path := range kept.files {
		if strings.HasPrefix(path, rootPath+"blobs/") && path != dataPath(digest.FromString(oneBody)) {
			t.Error(path)
		}
	}
	if got := kept.files[tagPath("p/i", "1.0")]; got != sha(oneBody) {
		t.Errorf("the tag is %s", got)
	}
	inBubble(t, Options{}, kept, func(h *handle) {
		h.wantStale(h.get(tagURI), oneBody, 0)
		h.wantFresh(h.get("/v2/p/i/manifests/"+sha512(oneBody)), oneBody)
	})
}

func TestCorruptFilesAreNotServed(t *testing.T) {
	kept := newStore()
	inBubble(t, Options{}, kept, func(h *handle) {
		h.says(has(ociIndex, both))
		h.get(tagURI)
		h.get(referrersURI(""))
	})
	for path, content := range kept.files {
		if !strings.HasSuffix(path, "/link") {
			kept.files[path] = strings.Replace(content, "bom", "bxm", 1)
		}
	}
	inBubble(t, Options{}, kept, func(h *handle) {
		for _, uri := range []string{tagURI, referrersURI(""), "/v2/p/i/manifests/" + sha(both)} {
			h.want(h.get(uri), 502, "")
		}
	})
	for path, content := range kept.files {
		kept.files[path] = content[:len(content)/2]
	}
	inBubble(t, Options{}, kept, func(h *handle) {
		for _, uri := range []string{tagURI, referrersURI(""), "/v2/p/i/manifests/" + sha(both)} {
			h.want(h.get(uri), 502, "")
		}
	})
}

func TestUseIsRecordedInTheStore(t *testing.T) {
	kept := newStore()
	inBubble(t, Options{TTL: time.Hour}, kept, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		h.get(tagURI)
		synctest.Wait()
		before := kept.stats
		for range 600 { // 10 minutes
			h.get(tagURI)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n := kept.stats - before; n < 8 || n > 10 {
			t.Errorf("marked as used %d times", n)
		}
		kept.clear() // evicted for lack of room
		time.Sleep(time.Minute)
		h.get(tagURI)
		synctest.Wait()
		if got := kept.files[tagPath("p/i", "1.0")]; got != sha(oneBody) || kept.files[dataPath(digest.Digest(got))] != oneBody {
			t.Errorf("not stored again: %v", kept.files)
		}
	})
}

func TestUnchangedTagIsNotWrittenAgain(t *testing.T) {
	kept := newStore()
	inBubble(t, Options{}, kept, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		h.get(tagURI)
		synctest.Wait()
		puts := kept.puts
		for range 5 {
			time.Sleep(1100 * time.Millisecond)
			h.get(tagURI)
		}
		synctest.Wait()
		h.wantAsked("", 6)
		if kept.puts != puts {
			t.Errorf("%d more files were written", kept.puts-puts)
		}
	})
}

func TestNewerAnswerStaysInTheStore(t *testing.T) {
	kept := newStore()
	var once sync.Once
	reached, goOn := make(chan struct{}), make(chan struct{})
	kept.putting = func(path string) {
		if path == dataPath(digest.FromString(oneBody)) { // a slow disk
			once.Do(func() { close(reached) })
			<-goOn
		}
	}
	h := newHandle(t, Options{TTL: 1}, kept)
	h.says(has(ociManifest, oneBody))
	h.wantFresh(h.get(tagURI), oneBody) // no client waits for the disk
	<-reached
	h.says(has(ociIndex, twoBody))
	h.wantFresh(h.get(tagURI), twoBody)
	close(goOn)
	h.Close()
	// A later attempt to save it does not overwrite the newer one, either.
	q := question{Request: route.Request{Kind: route.Manifest, Upstream: host, Repository: "p/i", Tag: "1.0"}}
	h.save(h.upstreams[host], q, &Answer{Body: []byte(oneBody), digest: digest.FromString(oneBody), mediaType: ociManifest})
	if got := kept.files[tagPath("p/i", "1.0")]; got != sha(twoBody) {
		t.Errorf("the store has %s", got)
	}
}

func TestHerdReadsTheStoreOnce(t *testing.T) {
	const clients = 50
	kept := newStore()
	h := newHandle(t, Options{}, kept)
	h.says(has(ociManifest, oneBody))
	h.want(h.get(tagURI), 200, oneBody)
	h.Close()
	var reads atomic.Int64
	began, goOn := make(chan struct{}, clients), make(chan struct{})
	kept.getting = func(path string) {
		if path == dataPath(digest.FromString(oneBody)) {
			reads.Add(1)
			<-goOn
		}
	}
	h = newHandle(t, Options{}, kept)
	defer h.Close()
	var herd sync.WaitGroup
	for range clients {
		herd.Go(func() {
			began <- struct{}{}
			h.wantFresh(h.get("/v2/p/i/manifests/"+sha(oneBody)), oneBody)
		})
	}
	for range clients {
		<-began
	}
	close(goOn)
	herd.Wait()
	// A client that arrives just after the read, before the content is in memory, may read it again.
	if n := reads.Load(); n > 10 {
		t.Errorf("%d reads", n)
	}
}

// realStore returns a function that opens the same store on disk, again at each call.
func realStore(t *testing.T) func() (*store.Upstream, *store.Store) {
	path := t.TempDir()
	return func() (*store.Upstream, *store.Store) {
		s, err := store.New(store.Options{Path: path, Limit: store.MinLimit, ScrubRate: -1, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		u, err := s.Upstream(host)
		if err != nil {
			t.Fatal(err)
		}
		return u, s
	}
}

func TestRestartWithTheStore(t *testing.T) {
	open := realStore(t)
	kept, s := open()
	h := newHandle(t, Options{}, kept)
	bodies := []string{oneBody, twoBody, `{"schemaVersion":1,"signatures":[]}`, "odd", strings.Repeat("large", 200_000)}
	for i, body := range bodies {
		h.says(has("application/vnd.odd", body))
		h.want(h.get(fmt.Sprintf("/v2/p/i/manifests/%d", i)), 200, body)
		h.want(h.get("/v2/p/i/manifests/"+sha512(body)), 200, body)
	}
	h.says(has(ociIndex, both))
	h.want(h.get(referrersURI("?artifactType=a/signature")), 200, onlySigns)
	h.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	kept, _ = open()
	h = newHandle(t, Options{}, kept)
	defer h.Close()
	for i, body := range bodies {
		for _, d := range []string{sha(body), sha512(body)} {
			r := h.get("/v2/p/i/manifests/" + d)
			h.wantFresh(r, body)
			if r.Header().Get("Content-Type") != "application/vnd.odd" || r.Header().Get("Docker-Content-Digest") != d {
				t.Error(r.Header())
			}
		}
		h.wantStale(h.get(fmt.Sprintf("/v2/p/i/manifests/%d", i)), body, time.Second)
	}
	h.wantStale(h.get(referrersURI("?artifactType=a/signature")), onlySigns, time.Second)
}

// TestLayoutMatchesDistribution checks that distribution finds what this package stores, and vice versa.
func TestLayoutMatchesDistribution(t *testing.T) {
	open := realStore(t)
	kept, _ := open()
	ctx := t.Context()
	registry, err := storage.NewRegistry(ctx, kept, storage.EnableDelete)
	if err != nil {
		t.Fatal(err)
	}
	name, err := reference.WithName("p/i")
	if err != nil {
		t.Fatal(err)
	}
	repository, err := registry.Repository(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := repository.Manifests(ctx)
	if err != nil {
		t.Fatal(err)
	}

	h := newHandle(t, Options{}, kept)
	h.says(has(ociIndex, twoBody))
	h.want(h.get(tagURI), 200, twoBody)
	h.Close()
	d, err := repository.Tags(ctx).Get(ctx, "1.0")
	if err != nil || d.Digest.String() != sha(twoBody) {
		t.Fatalf("%v %v", d, err)
	}
	found, err := manifests.Get(ctx, d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, payload, _ := found.Payload(); string(payload) != twoBody {
		t.Fatalf("%s", payload)
	}

	other := strings.Replace(twoBody, "]", "] ", 1)
	m, _, err := distribution.UnmarshalManifest(ociIndex, []byte(other))
	if err != nil {
		t.Fatal(err)
	}
	if d.Digest, err = manifests.Put(ctx, m); err != nil {
		t.Fatal(err)
	}
	if err = repository.Tags(ctx).Tag(ctx, "2.0", d); err != nil {
		t.Fatal(err)
	}
	h = newHandle(t, Options{}, kept)
	defer h.Close()
	h.wantStale(h.get("/v2/p/i/manifests/2.0"), other, time.Second)
	h.wantFresh(h.get("/v2/p/i/manifests/"+sha(other)), other)
}

func TestFullStoreFailsNothing(t *testing.T) {
	full := &fullStore{}
	inBubble(t, Options{}, full, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		for range 3 {
			h.wantFresh(h.get(tagURI), oneBody)
			h.wantFresh(h.get("/v2/p/i/manifests/"+sha(oneBody)), oneBody)
			time.Sleep(2 * time.Minute)
		}
	})
}

type fullStore struct{ fakeStore }

func (*fullStore) PutContent(context.Context, string, []byte) error { return context.DeadlineExceeded }

var _ Store = (*store.Upstream)(nil)

var _ Getter = (*fakeUpstream)(nil)
