// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

func TestStaleImmediatelyAfterAnError(t *testing.T) {
	for _, say := range []func(context.Context, route.Request, string) (*Answer, error){
		fails(401), fails(403), fails(404), fails(429), fails(500), fails(503), unreachable, has("", ""),
	} {
		inBubble(t, Options{}, nil, func(h *handle) {
			h.says(has(ociManifest, oneBody))
			h.get(tagURI)
			time.Sleep(1100 * time.Millisecond)
			h.says(say)
			for range 5 {
				h.wantStale(h.get(tagURI), oneBody, 0)
			}
			h.wantAsked("", 2)
			if got := h.get("/v2/p/i/manifests/" + sha(oneBody)); got.stale() {
				t.Error("a digest is stale")
			}
			time.Sleep(2 * time.Second)
			h.says(has(ociIndex, twoBody))
			h.wantFresh(h.get(tagURI), twoBody)
		})
	}
}

func TestStaleAfterTwoSecondsOfSilence(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		h.get(tagURI)
		time.Sleep(1100 * time.Millisecond)
		h.says(hangs)
		begun := time.Now()
		var clients sync.WaitGroup
		for i := range 10 {
			clients.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				r := h.get(tagURI)
				if took := time.Since(begun); took != 2*time.Second || !r.stale() {
					t.Errorf("took %v: %d %v", took, r.Code, r.Header())
				}
			})
		}
		clients.Wait()
		h.wantAsked("", 2)
		time.Sleep(900 * time.Millisecond)
		h.wantStale(h.get(tagURI), oneBody, 0)
		h.wantAsked("", 2)
	})
}

// TestSlowTagDoesNotAffectOthers checks that a tag with a slow check does not affect other tags.
func TestSlowTagDoesNotAffectOthers(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		for _, uri := range []string{tagURI, "/v2/p/i/manifests/2.0", "/v2/p/other/manifests/1.0"} {
			h.get(uri)
		}
		time.Sleep(1100 * time.Millisecond)
		h.says(func(ctx context.Context, r route.Request, accept string) (*Answer, error) {
			if r.Path() == tagURI {
				return hangs(ctx, r, accept)
			}
			return ok(ociIndex, twoBody), nil
		})
		h.wantStale(h.get(tagURI), oneBody, 2*time.Second)
		h.wantFresh(h.get("/v2/p/i/manifests/2.0"), twoBody)
		h.wantFresh(h.get("/v2/p/other/manifests/1.0"), twoBody)
		h.wantStale(h.get(tagURI), oneBody, 0)
	})
}

func TestStaleEndsWithTheFirstAnswer(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		h.get(tagURI)
		time.Sleep(1100 * time.Millisecond)
		h.says(slow(3*time.Second, has(ociIndex, twoBody)))
		h.wantStale(h.get(tagURI), oneBody, 2*time.Second)
		time.Sleep(900 * time.Millisecond)
		h.wantStale(h.get(tagURI), oneBody, 0)
		time.Sleep(200 * time.Millisecond)
		h.wantFresh(h.get(tagURI), twoBody) // from the slow check
		h.wantAsked("", 2)
	})
}

// TestStaleEndsFourSecondsAfterRecovery keeps old connections hanging after the upstream has recovered. New checks
// detect the recovery.
func TestStaleEndsFourSecondsAfterRecovery(t *testing.T) {
	for outage := 200 * time.Millisecond; outage < 80*time.Second; outage += 700*time.Millisecond + outage/20 {
		inBubble(t, Options{}, nil, func(h *handle) {
			h.says(has(ociManifest, oneBody))
			h.get(tagURI)
			time.Sleep(1100 * time.Millisecond)
			end := time.Now().Add(outage)
			h.says(func(ctx context.Context, r route.Request, accept string) (*Answer, error) {
				if time.Now().Before(end) {
					return hangs(ctx, r, accept)
				}
				return ok(ociIndex, twoBody), nil
			})
			for {
				r := h.get(tagURI)
				if !r.stale() {
					h.wantFresh(r, twoBody)
					break
				}
				h.wantStale(r, oneBody, 2*time.Second)
				synctest.Wait() // abandoned attempts have ended
				if n := h.atOnce(); n > 2 {
					t.Errorf("%d checks at once", n)
				}
				time.Sleep(250 * time.Millisecond)
			}
			if took := time.Since(end); took > 4*time.Second {
				t.Errorf("stale for %v after an outage of %v", took, outage)
			}
			time.Sleep(1100 * time.Millisecond)
			h.wantFresh(h.get(tagURI), twoBody)
		})
	}
}

// TestSlowManifestArrives checks that a slow manifest arrives, and is available to a later client.
func TestSlowManifestArrives(t *testing.T) {
	for _, reference := range []string{"1.0", sha(oneBody)} {
		for _, takes := range []time.Duration{6 * time.Second, 9 * time.Second} {
			inBubble(t, Options{}, newStore(), func(h *handle) {
				h.says(slow(takes, has(ociManifest, oneBody)))
				uri := "/v2/p/i/manifests/" + reference
				r := h.get(uri)
				h.want(r, 504, "")
				if r.took != 5*time.Second || r.Header().Get("Retry-After") != "2" {
					t.Errorf("took %v: %v", r.took, r.Header())
				}
				r = h.get(uri)
				h.wantFresh(r, oneBody)
				if r.result != Shared {
					t.Error(r.result)
				}
				h.wantAsked("", 1)
			})
		}
	}
}

func TestSlowKnownTagArrives(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		h.get(tagURI)
		time.Sleep(1100 * time.Millisecond)
		h.says(slow(9*time.Second, has(ociIndex, twoBody)))
		begun := time.Now()
		for h.get(tagURI).stale() {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(begun); took > 9200*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func TestTimeoutOfTheUpstreamIsNotShared(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(fails(504))
		h.want(h.get(tagURI), 504, "")
		h.says(has(ociManifest, oneBody))
		h.wantFresh(h.get(tagURI), oneBody)
		// With an old answer, the timeout is remembered: no client waits.
		time.Sleep(1100 * time.Millisecond)
		h.says(slow(time.Second, fails(504)))
		h.wantStale(h.get(tagURI), oneBody, time.Second)
		h.wantStale(h.get(tagURI), oneBody, 0)
	})
}

func TestCheckContinuesWithoutItsClient(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(slow(3*time.Second, has(ociManifest, oneBody)))
		ctx, cancel := context.WithTimeout(h.t.Context(), time.Second)
		defer cancel()
		if r := h.in(ctx, http.MethodGet, tagURI); r.result != ClientGone || r.Body.Len() > 0 {
			t.Errorf("%s %s", r.result, r.Body)
		}
		h.wantFresh(h.get(tagURI), oneBody)
		h.wantAsked("", 1)
	})
}

func TestCheckTimesOut(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(hangs)
		h.want(h.get(tagURI), 504, "")
		time.Sleep(54 * time.Second)
		synctest.Wait()
		if s := h.stats(); s.Checks != 1 {
			t.Errorf("%+v", s)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s := h.stats(); s.Checks != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestHungCheckIsGivenUp(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(hangs)
		h.want(h.get(tagURI), 504, "")
		h.says(has(ociManifest, oneBody))
		h.want(h.get(tagURI), 504, "")
		h.wantFresh(h.get(tagURI), oneBody)
		h.wantAsked("", 2)
		// The first attempt is given up, and its answer is ignored.
		synctest.Wait()
		if n := h.atOnce(); n != 0 {
			t.Errorf("%d are still running", n)
		}
		time.Sleep(1100 * time.Millisecond)
		h.wantFresh(h.get(tagURI), oneBody)
	})
}

func TestHungChecksLeaveRoom(t *testing.T) {
	inBubble(t, Options{Checks: 2, Queue: 10}, nil, func(h *handle) {
		h.says(hangs)
		var clients sync.WaitGroup
		for i := range 2 {
			clients.Go(func() { h.want(h.get(fmt.Sprintf("/v2/p/i/manifests/%d", i)), 504, "") })
		}
		synctest.Wait()
		h.says(has(ociManifest, oneBody))
		h.want(h.get(tagURI), 504, "")
		time.Sleep(100 * time.Millisecond)
		h.wantFresh(h.get(tagURI), oneBody) // after 10 s
		clients.Wait()
		// At most Options.Checks questions may be aside.
		h.says(hangs)
		for i := range 8 {
			h.want(h.get(fmt.Sprintf("/v2/p/other/manifests/%d", i)), 504, "")
			synctest.Wait()
			if n := h.atOnce(); n > 4 {
				t.Errorf("%d at once", n)
			}
		}
		// Those without room aside are canceled.
		h.says(has(ociManifest, oneBody))
		time.Sleep(6 * time.Second)
		h.wantFresh(h.get("/v2/p/third/manifests/1.0"), oneBody)
	})
}

func TestFullQueueStillShares(t *testing.T) {
	inBubble(t, Options{Checks: 1}, nil, func(h *handle) {
		h.upstreams[host].gate.queueLimit = 0
		h.says(slow(14*time.Second, has(ociManifest, oneBody)))
		h.want(h.get(tagURI), 504, "")
		time.Sleep(6 * time.Second)
		var clients sync.WaitGroup
		clients.Go(func() { h.want(h.get("/v2/p/i/manifests/3.0"), 504, "") }) // takes the place of the one that moved aside
		synctest.Wait()
		h.want(h.get("/v2/p/i/manifests/2.0"), 503, "")
		h.wantFresh(h.get(tagURI), oneBody)
		h.wantAsked("/1.0", 1)
		clients.Wait()
	})
}

// TestSlowStore checks that clients are answered while the store blocks, that few answers wait for it, and that the
// others are saved later.
func TestSlowStore(t *testing.T) {
	store, written := newStore(), make(chan struct{})
	store.putting = func(string) { <-written }
	h := newHandle(t, Options{Checks: 1, Queue: 2, TTL: time.Nanosecond}, store)
	defer h.Close()
	h.says(has(ociManifest, oneBody))
	for i := range 10 {
		h.wantFresh(h.get(fmt.Sprintf("/v2/p/i/manifests/%d", i)), oneBody)
	}
	h.Handler.mu.Lock()
	if n := h.upstreams[host].saves; n != 3 {
		t.Errorf("%d answers wait to be written", n)
	}
	h.Handler.mu.Unlock()
	close(written)
	saved := func(tag string) bool {
		store.mu.Lock()
		defer store.mu.Unlock()
		return store.files[tagPath("p/i", tag)] == sha(oneBody)
	}
	for begun := time.Now(); !saved("2"); time.Sleep(time.Millisecond) {
		if time.Since(begun) > 10*time.Second {
			t.Fatal("nothing was written")
		}
	}
	for begun := time.Now(); !saved("9"); time.Sleep(time.Millisecond) {
		h.wantFresh(h.get("/v2/p/i/manifests/9"), oneBody)
		if time.Since(begun) > 10*time.Second {
			t.Fatal("what was left out is not written later")
		}
	}
}

func TestStaleAnswerFromOwner(t *testing.T) {
	store := newStore()
	inBubble(t, Options{}, store, func(h *handle) {
		known := ok(ociManifest, oneBody)
		known.Stale = true
		h.says(func(context.Context, route.Request, string) (*Answer, error) { return known, nil })
		h.wantStale(h.get(tagURI), oneBody, 0)
		h.wantStale(h.get(tagURI), oneBody, 0)
		h.wantAsked("", 1)
		time.Sleep(2100 * time.Millisecond)
		h.says(has(ociIndex, twoBody))
		h.wantFresh(h.get(tagURI), twoBody)
		// The answer of this replica is newer.
		time.Sleep(1100 * time.Millisecond)
		h.says(func(context.Context, route.Request, string) (*Answer, error) { return known, nil })
		h.wantStale(h.get(tagURI), twoBody, 0)
		synctest.Wait()
		if got := store.files[tagPath("p/i", "1.0")]; got != sha(twoBody) {
			t.Errorf("kept %s", got)
		}
		// The content of a digest is never stale.
		h.wantFresh(h.get("/v2/p/new/manifests/"+sha(oneBody)), oneBody)
	})
}

func TestChecksAreBounded(t *testing.T) {
	inBubble(t, Options{Checks: 4, ChecksPerRepository: 3, Queue: 20}, nil, func(h *handle) {
		h.says(slow(time.Second, has(ociManifest, oneBody)))
		var clients sync.WaitGroup
		results := map[int]int{}
		var mu sync.Mutex
		get := func(uri string) {
			clients.Go(func() {
				r := h.get(uri)
				mu.Lock()
				results[r.Code]++
				mu.Unlock()
			})
		}
		for i := range 23 {
			get(fmt.Sprintf("/v2/p/i/manifests/%d", i))
		}
		synctest.Wait()
		if h.atOnce() != 3 || h.stats().Queued != 20 {
			t.Errorf("%d run, %+v", h.atOnce(), h.stats())
		}
		get("/v2/p/other/manifests/1.0") // goes first, since its repository is below its limit
		synctest.Wait()
		if h.atOnce() != 4 {
			t.Errorf("%d run", h.atOnce())
		}
		for i := range 7 {
			get(fmt.Sprintf("/v2/p/third/manifests/%d", i))
		}
		clients.Wait()
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if h.peak > 4 || results[503] != 7 {
			t.Errorf("peak %d, results %v", h.peak, results)
		}
		if s := h.stats(); s.Checks != 0 || s.Queued != 0 {
			t.Errorf("%+v", s)
		}
		for i := range 7 {
			h.wantFresh(h.get(fmt.Sprintf("/v2/p/third/manifests/%d", i)), oneBody) // such an error is not kept
		}
	})
}

// TestSlowRepositoryDoesNotBlockOthers requests more tags of a slow repository than may wait. Other repositories are still
// served.
func TestSlowRepositoryDoesNotBlockOthers(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(func(ctx context.Context, r route.Request, accept string) (*Answer, error) {
			if strings.HasPrefix(r.Repository, "slow") {
				return hangs(ctx, r, accept)
			}
			return ok(ociManifest, oneBody), nil
		})
		var clients sync.WaitGroup
		refused := 0
		var mu sync.Mutex
		flood := func(n int, repositories int) {
			for i := range n {
				clients.Go(func() {
					if r := h.get(fmt.Sprintf("/v2/slow/%d/manifests/%d", i%repositories, i)); r.Code == 503 {
						mu.Lock()
						refused++
						mu.Unlock()
					}
				})
			}
			synctest.Wait()
		}
		flood(1900, 1)
		if s := h.stats(); s.Queued != 1024 || refused != 1900-1024-16 {
			t.Errorf("%d refused, %+v", refused, s)
		}
		for i := range 20 {
			if r := h.get(fmt.Sprintf("/v2/p/i/manifests/%d", i)); r.Code != 200 || r.took != 0 {
				t.Errorf("%d after %s", r.Code, r.took)
			}
		}
		// If slow repositories have taken all places, others wait only for their turn.
		flood(1900, 4)
		begun := time.Now()
		time.Sleep(time.Second)
		for i := range 20 {
			clients.Go(func() {
				r := h.get(fmt.Sprintf("/v2/p/%d/manifests/1.0", i))
				if r.Code == 504 { // asked after the slow ones have moved aside
					r = h.get(fmt.Sprintf("/v2/p/%d/manifests/1.0", i))
				}
				if took := time.Since(begun); r.Code != 200 || took > 10*time.Second {
					t.Errorf("%d after %s", r.Code, took)
				}
			})
		}
		clients.Wait()
	})
}

func TestQueuedCheckIsShared(t *testing.T) {
	inBubble(t, Options{Checks: 1}, nil, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		h.get(tagURI)
		time.Sleep(1100 * time.Millisecond)
		h.says(hangs)
		var clients sync.WaitGroup
		clients.Go(func() { h.get("/v2/p/i/manifests/slow") })
		synctest.Wait()
		clients.Go(func() { // keeps the check in the queue
			for range 30 {
				h.wantStale(h.get(tagURI), oneBody, 2*time.Second)
				time.Sleep(100 * time.Millisecond)
			}
		})
		for range 40 {
			time.Sleep(100 * time.Millisecond)
			if s := h.stats(); s.Queued > 1 {
				t.Fatalf("%+v", s)
			}
		}
		clients.Wait()
	})
}

func TestQueuedCheckEndsWithItsClients(t *testing.T) {
	inBubble(t, Options{Checks: 1}, nil, func(h *handle) {
		h.says(slow(4*time.Second, has(ociManifest, oneBody)))
		var clients sync.WaitGroup
		clients.Go(func() { h.get(tagURI) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(h.t.Context(), time.Second)
		defer cancel()
		h.in(ctx, http.MethodGet, "/v2/p/i/manifests/2.0")
		if s := h.stats(); s.Checks != 1 {
			t.Errorf("%+v", s)
		}
		clients.Wait()
		h.wantAsked("", 1)
		h.wantFresh(h.get("/v2/p/i/manifests/2.0"), oneBody)
	})
}

func BenchmarkTag(b *testing.B) {
	h := New(Options{TTL: time.Hour, Upstreams: map[string]Upstream{host: {Getter: &fakeUpstream{say: has(ociManifest, oneBody)}}}})
	defer h.Close()
	req := route.Request{Kind: route.Manifest, Upstream: host, Repository: "p/i", Tag: "1.0"}
	r := httptest.NewRequest(http.MethodGet, tagURI, nil)
	r.Header.Set("Accept", acceptAny)
	for b.Loop() {
		w := nowhere{http.Header{}}
		h.Serve(w, r, req)
	}
}

type nowhere struct{ header http.Header }

func (w nowhere) Header() http.Header         { return w.header }
func (w nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w nowhere) WriteHeader(int)             {}

func TestManyClientsAtOnce(t *testing.T) {
	inBubble(t, Options{Memory: 256 << 10}, newStore(), func(h *handle) {
		h.says(func(ctx context.Context, r route.Request, accept string) (*Answer, error) {
			body := oneBody + strings.Repeat(" ", len(r.Tag)+int(time.Now().Unix()%7))
			return slow(time.Duration(len(r.Repository))*100*time.Millisecond, has(ociManifest, body))(ctx, r, accept)
		})
		var clients sync.WaitGroup
		for i := range 50 {
			clients.Go(func() {
				for j := range 40 {
					ctx, cancel := context.WithTimeout(h.t.Context(), time.Duration(i*j%900+100)*time.Millisecond)
					r := h.in(ctx, http.MethodGet, fmt.Sprintf("/v2/%s/manifests/%d", strings.Repeat("a", 1+i%3), j%10))
					cancel()
					if r.result != ClientGone && r.Code != 200 {
						t.Errorf("%s %d %s", r.result, r.Code, r.Body)
					}
					time.Sleep(time.Duration(i) * time.Millisecond)
				}
			})
		}
		clients.Wait()
	})
}
