// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

const fatSize = 3900 << 10

// fat returns a different large manifest for each tag. Like package upstream, it reserves room first.
func fat(ctx context.Context, r route.Request, _ string) (*Answer, error) {
	if err := Reserve(ctx, fatSize); err != nil {
		return nil, err
	}
	head := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"annotations":{"tag":%q,"a":"`, ociManifest, r.Reference())
	body := bytes.Repeat([]byte("A"), fatSize)
	copy(body, head)
	copy(body[fatSize-3:], `"}}`)
	return &Answer{Status: http.StatusOK, Header: http.Header{"Content-Type": {ociManifest}}, Body: body}, nil
}

func fatOrSlim(ctx context.Context, r route.Request, accept string) (*Answer, error) {
	if strings.HasPrefix(r.Repository, "fat") {
		return fat(ctx, r, accept)
	}
	return ok(ociManifest, oneBody), nil
}

// stuck is a client that receives nothing until it is released.
type stuck struct {
	*httptest.ResponseRecorder
	begun *atomic.Int64
	gone  <-chan struct{}
}

func (w stuck) Write(p []byte) (int, error) {
	w.begun.Add(1)
	<-w.gone
	return len(p), nil
}

// readSlowly runs n clients, each with a different tag, and returns their statuses.
func (h *handle) readSlowly(n int, repository string, gone <-chan struct{}, clients *sync.WaitGroup) (begun, refused *atomic.Int64) {
	begun, refused = new(atomic.Int64), new(atomic.Int64)
	for i := range n {
		clients.Go(func() {
			req := route.Request{Kind: route.Manifest, Upstream: host, Repository: repository, Tag: fmt.Sprintf("t%d", i)}
			a, result := h.Handler.Get(h.t.Context(), req, nil)
			if result == ClientGone { // the test has failed
				return
			}
			if a.Status != http.StatusOK {
				refused.Add(1)
				a.Release()
				return
			}
			r := httptest.NewRequestWithContext(h.t.Context(), http.MethodGet, req.URI(), nil)
			a.Write(stuck{httptest.NewRecorder(), begun, gone}, r, req, result)
		})
	}
	return begun, refused
}

// TestSlowReadersOfLargeManifests checks that slow readers of large manifests take limited memory, and do not block
// small manifests.
func TestSlowReadersOfLargeManifests(t *testing.T) {
	h := newHandle(t, Options{ClientTimeout: time.Second, TTL: time.Hour, Memory: 8 << 20, InFlight: 64 << 20}, nil)
	defer h.Close()
	h.says(fatOrSlim)
	h.wantFresh(h.get(tagURI), oneBody)
	gone, clients := make(chan struct{}), new(sync.WaitGroup)
	begun, refused := h.readSlowly(200, "fat", gone, clients)
	for end := time.Now().Add(time.Minute); begun.Load()+refused.Load() < 200; time.Sleep(10 * time.Millisecond) {
		if r := h.get(tagURI); r.Code != 200 || r.took > 500*time.Millisecond {
			t.Errorf("a known small one: %d after %s", r.Code, r.took)
		}
		if time.Now().After(end) {
			t.Fatalf("%d started, %d refused", begun.Load(), refused.Load())
		}
		if s := h.stats(); s.InFlight > 64<<20 {
			t.Fatalf("%d MiB in flight", s.InFlight>>20)
		}
	}
	for i := range 20 {
		h.wantFresh(h.get(fmt.Sprintf("/v2/p/i/manifests/new%d", i)), oneBody)
	}
	// Only manifests being sent and cached ones are left in memory.
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > (64+8+16)<<20 {
		t.Errorf("%d MiB on the heap, %d started", m.HeapAlloc>>20, begun.Load())
	}
	if n := begun.Load(); n == 0 || n > 48<<20/fatSize {
		t.Errorf("%d are sent", n)
	}
	// Fill the room for large manifests, so that the next one is refused.
	refused.Store(0)
	for i := 0; refused.Load() == 0; i++ {
		begun, refused = h.readSlowly(1, fmt.Sprintf("fat/%d", i), gone, clients)
		for begun.Load()+refused.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	if r := h.get("/v2/fat/manifests/other"); r.Code != http.StatusServiceUnavailable || r.Header().Get("Retry-After") == "" {
		t.Errorf("%d, Retry-After %q", r.Code, r.Header().Get("Retry-After"))
	}
	close(gone)
	clients.Wait()
	h.wantLarge("/v2/fat/manifests/other")
}

// wantLarge fails the test unless a large manifest is served.
func (h *handle) wantLarge(uri string) {
	h.t.Helper()
	if r := h.get(uri); r.Code != http.StatusOK || r.Body.Len() != fatSize {
		h.t.Errorf("%s: %d, %d bytes", uri, r.Code, r.Body.Len())
	}
}

// TestOneAnswerForManyClients checks that an answer for several clients counts once, for concurrent and later requests,
// even if it is too large to be cached.
func TestOneAnswerForManyClients(t *testing.T) {
	inBubble(t, Options{Memory: 1 << 20}, newStore(), func(h *handle) {
		h.says(slow(time.Second, fatOrSlim))
		gone, clients := make(chan struct{}), new(sync.WaitGroup)
		sent := new(atomic.Int64)
		for i := range 100 {
			clients.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				req := route.Request{Kind: route.Manifest, Upstream: host, Repository: "fat", Tag: "1.0"}
				a, result := h.Handler.Get(h.t.Context(), req, nil)
				r := httptest.NewRequestWithContext(h.t.Context(), http.MethodGet, req.URI(), nil)
				a.Write(stuck{httptest.NewRecorder(), sent, gone}, r, req, result)
			})
		}
		time.Sleep(12 * time.Second)
		synctest.Wait()
		if s := h.stats(); sent.Load() != 100 || s.InFlight != fatSize {
			t.Errorf("%d are being sent, %+v", sent.Load(), s)
		}
		close(gone)
		clients.Wait()
	})
}

// TestLargeManifestsOfTheStore checks that large manifests are read from the store only when there is room, and waiting
// clients do not keep them in memory.
func TestLargeManifestsOfTheStore(t *testing.T) {
	store := newStore()
	inBubble(t, Options{}, store, func(h *handle) {
		h.says(fatOrSlim)
		for i := range 30 {
			h.wantLarge(fmt.Sprintf("/v2/fat/manifests/t%d", i))
			synctest.Wait()
		}
	})
	inBubble(t, Options{Memory: 1 << 20}, store, func(h *handle) { // none of them fits
		h.says(unreachable)
		gone, clients := make(chan struct{}), new(sync.WaitGroup)
		begun, refused := h.readSlowly(30, "fat", gone, clients)
		synctest.Wait()
		if s := h.stats(); begun.Load() < 9 || s.InFlight > 48<<20 {
			t.Errorf("%d are being sent, %+v", begun.Load(), s)
		}
		time.Sleep(time.Second)
		close(gone) // lets the others proceed
		clients.Wait()
		if begun.Load() != 30 || refused.Load() != 0 {
			t.Errorf("%d are being sent, %d refused", begun.Load(), refused.Load())
		}
	})
}

// TestHangingDisk checks that few bytes are kept in memory while the disk hangs.
func TestHangingDisk(t *testing.T) {
	store, written := newStore(), make(chan struct{})
	store.putting = func(string) { <-written }
	h := newHandle(t, Options{}, store)
	defer h.Close()
	h.says(fatOrSlim)
	for i := range 30 {
		h.wantLarge(fmt.Sprintf("/v2/fat/manifests/t%d", i))
	}
	if s := h.stats(); s.InFlight > 8<<20 || s.InFlight == 0 {
		t.Errorf("%+v", s)
	}
	close(written)
}

// TestRoom checks that small answers can overtake large ones, and large ones are served in order.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newByteSemaphore(8<<20, time.Second)
		var mu sync.Mutex
		var order strings.Builder
		var all sync.WaitGroup
		enter := func(name string, cost int64) {
			all.Go(func() {
				if !r.acquire(t.Context(), cost) {
					name = "-" + name
				}
				mu.Lock()
				defer mu.Unlock()
				order.WriteString(name)
			})
			synctest.Wait()
		}
		enter("a", 4<<20)
		enter("b", 3<<20) // more than the room for large answers
		enter("c", 1<<20) // behind b
		for range 64 {
			enter("s", 32<<10)
		}
		if got := order.String(); got != "a"+strings.Repeat("s", 64) {
			t.Errorf("order %s", got)
		}
		r.release(4 << 20)
		synctest.Wait()
		if got := strings.TrimLeft(order.String(), "as"); got != "bc" && got != "cb" {
			t.Errorf("order %s", got)
		}
		for range 64 { // more than their reserved part, since there is room
			enter("s", 32<<10)
		}
		enter("s", 32<<10)
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if !strings.HasSuffix(order.String(), "s-s") || r.used != 8<<20 {
			t.Errorf("order %s, %d used", order.String(), r.used)
		}
		r.release(4 << 20)
		for range 128 {
			r.release(32 << 10)
		}
		all.Wait()
		if r.cost(100<<20) != 6<<20 || !r.acquire(t.Context(), r.cost(100<<20)) {
			t.Error("what is larger than the room has none if it is the only one")
		}
		r.release(6 << 20)
		if r.used != 0 || r.usedLarge != 0 {
			t.Errorf("%d used, %d by large ones", r.used, r.usedLarge)
		}
	})
}
