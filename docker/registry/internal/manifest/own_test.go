// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
)

// fleet is a Handler with other replicas.
type fleet struct {
	*handle
	others *fakeUpstream
	owned  atomic.Bool
}

// inFleet runs a test with other replicas in a synctest bubble.
func inFleet(t *testing.T, o Options, f func(h *fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &fleet{others: &fakeUpstream{say: unreachable}}
		h.handle = newHandle(t, o, newStore())
		u := h.upstreams[host]
		u.relay, u.owned = h.others, func(route.Request) bool { return h.owned.Load() }
		defer h.Close()
		f(h)
	})
}

// hop sends a request from another replica.
func (h *fleet) hop(uri string, storeOnly bool) reply {
	h.t.Helper()
	r := httptest.NewRequestWithContext(h.t.Context(), http.MethodGet, uri, nil)
	req, refusal := route.New(host).Parse(r.URL)
	if refusal != nil {
		h.t.Fatal(refusal)
	}
	w, begun := httptest.NewRecorder(), time.Now()
	h.ServePeer(w, r, req, storeOnly)
	return reply{ResponseRecorder: w, took: time.Since(begun)}
}

func askSelf(context.Context, route.Request, string) (*Answer, error) { return nil, ErrUnknownToPeers }

// TestOwnerIsAsked checks that the owner is asked instead of the upstream. Its cached answer is a hit and keeps its
// age.
func TestOwnerIsAsked(t *testing.T) {
	inFleet(t, Options{TTL: 10 * time.Second}, func(h *fleet) {
		h.others.says(func(context.Context, route.Request, string) (*Answer, error) {
			a := ok("", oneBody)
			a.Known, a.Age = true, 8*time.Second
			return a, nil
		})
		r := h.get("/v2/a/manifests/v1")
		h.wantFresh(r, oneBody)
		if r.result != Hit || r.Header().Get("Age") != "8" {
			t.Errorf("%s, age %s", r.result, r.Header().Get("Age"))
		}
		h.wantFresh(h.get("/v2/a/manifests/"+sha(oneBody)), oneBody)
		time.Sleep(2 * time.Second)
		h.wantFresh(h.get("/v2/a/manifests/v1"), oneBody)
		h.wantAsked("/v1 ", 0)
		if n := h.others.count("/v1 "); n != 2 { // a hop does not prolong the time to live
			t.Errorf("others were asked %d times", n)
		}
	})
}

// TestUnknownToPeers checks that this replica asks the upstream if no other one knows the answer.
func TestUnknownToPeers(t *testing.T) {
	inFleet(t, Options{}, func(h *fleet) {
		h.others.says(askSelf)
		h.says(has("", oneBody))
		h.wantFresh(h.get("/v2/a/manifests/v1"), oneBody)
		h.wantFresh(h.get("/v2/b/manifests/"+sha(oneBody)), oneBody)
		h.wantAsked("/v1 ", 1)
		h.says(fails(http.StatusNotFound))
		h.want(h.get("/v2/a/manifests/none"), http.StatusNotFound, "")
	})
}

// TestHopsDoNotWaitForOthers checks that two replicas that ask each other the same question do not deadlock.
func TestHopsDoNotWaitForOthers(t *testing.T) {
	inFleet(t, Options{}, func(h *fleet) {
		h.others.says(hangs)
		h.says(slow(7*time.Second, has("", oneBody)))
		go h.get("/v2/a/manifests/v1")
		synctest.Wait()
		r := h.hop("/v2/a/manifests/v1", false) // for as long as the check goes on
		h.want(r, http.StatusOK, oneBody)
		if r.took != 7*time.Second {
			t.Errorf("after %v", r.took)
		}
		if age, stale := peer.Age(r.Header()); age > time.Second || stale {
			t.Errorf("age %v, stale %v", age, stale)
		}
	})
}

// TestOwnUpstreamFails checks that if the upstream fails, this replica asks the others for content that it owns, but
// not on behalf of another replica.
func TestOwnUpstreamFails(t *testing.T) {
	inFleet(t, Options{}, func(h *fleet) {
		h.owned.Store(true)
		h.says(fails(http.StatusBadGateway))
		h.others.says(has("", oneBody))
		h.wantFresh(h.get("/v2/a/manifests/v1"), oneBody)
		h.want(h.hop("/v2/a/manifests/v2", false), http.StatusBadGateway, "")
		if n := h.others.count("/v2 "); n != 0 {
			t.Errorf("others were asked %d times for another replica", n)
		}
		h.others.says(askSelf)
		h.want(h.get("/v2/a/manifests/v3"), http.StatusBadGateway, "")
		h.wantAsked("/v3 ", 1)
		h.says(fails(http.StatusNotFound))
		h.want(h.get("/v2/a/manifests/v4"), http.StatusNotFound, "")
		if n := h.others.count("/v4 "); n != 0 {
			t.Errorf("others were asked %d times for what the upstream does not have", n)
		}
	})
}

// TestBothWaitsAreOne checks that a client waits no longer for this replica and the others together than for one of
// them.
func TestBothWaitsAreOne(t *testing.T) {
	inFleet(t, Options{}, func(h *fleet) {
		h.owned.Store(true)
		h.says(slow(3*time.Second, fails(http.StatusGatewayTimeout)))
		h.others.says(hangs)
		r := h.get("/v2/a/manifests/v1")
		h.want(r, http.StatusGatewayTimeout, "")
		if r.took != 5*time.Second {
			t.Errorf("after %v", r.took)
		}
	})
}

// TestStoreOnly checks that only stored content is returned, and no upstream or replica is asked.
func TestStoreOnly(t *testing.T) {
	inFleet(t, Options{}, func(h *fleet) {
		h.owned.Store(true)
		h.says(has("", oneBody))
		h.want(h.hop("/v2/a/manifests/v1", true), http.StatusNotFound, "")
		h.wantAsked("/v1 ", 0)
		h.wantFresh(h.get("/v2/a/manifests/v1"), oneBody)
		time.Sleep(time.Minute)
		r := h.hop("/v2/a/manifests/v1", true)
		h.want(r, http.StatusOK, oneBody)
		if age, stale := peer.Age(r.Header()); age != time.Minute || !stale || !peer.Stored(r.Header()) {
			t.Errorf("age %v, stale %v", age, stale)
		}
		r = h.hop("/v2/a/manifests/"+sha(oneBody), true)
		h.want(r, http.StatusOK, oneBody)
		if _, stale := peer.Age(r.Header()); stale {
			t.Error("a digest is stale")
		}
		h.wantAsked("/v1 ", 1)
	})
}

// TestAdopt stores what another replica has stored, if its digest is right, and keeps what is already stored. Only the tag is asked
// for at the upstream, which is out.
func TestAdopt(t *testing.T) {
	inBubble(t, Options{}, newStore(), func(h *handle) {
		d := digest.FromString(oneBody)
		byDigest := route.Request{Kind: route.Manifest, Upstream: host, Repository: "a/b", Digest: d}
		byTag := route.Request{Kind: route.Manifest, Upstream: host, Repository: "a/b", Tag: "v1"}
		adopt := func(req route.Request, say func(context.Context, route.Request, string) (*Answer, error)) error {
			return h.Adopt(t.Context(), req, func(ctx context.Context) (*Answer, error) { return say(ctx, req, "") })
		}
		for name, say := range map[string]func(context.Context, route.Request, string) (*Answer, error){
			"wrong bytes": has("", twoBody), "an error": fails(http.StatusNotFound), "nothing": unreachable, "empty": has("", ""),
		} {
			if err := adopt(byDigest, say); err == nil || h.Holds(t.Context(), byDigest) {
				t.Errorf("%s: %v", name, err)
			}
		}
		old := func(body string) func(context.Context, route.Request, string) (*Answer, error) {
			return func(context.Context, route.Request, string) (*Answer, error) {
				a := ok("", body)
				a.Stale, a.Age = true, time.Hour
				return a, nil
			}
		}
		for _, req := range []route.Request{byDigest, byTag} {
			if err := adopt(req, old(oneBody)); err != nil || !h.Holds(t.Context(), req) {
				t.Errorf("%s: %v", req.Path(), err)
			}
		}
		if err := adopt(byTag, old(twoBody)); err != nil { // this replica knows the tag by now
			t.Error(err)
		}
		if r := h.get(byDigest.Path()); r.Body.String() != oneBody || r.result != Hit {
			t.Errorf("by digest: %d %s", r.Code, r.result)
		}
		h.wantAsked("", 0)
		h.wantStale(h.get(byTag.Path()), oneBody, time.Minute)
		if h.Holds(t.Context(), route.Request{Kind: route.Manifest, Upstream: "none", Repository: "a", Tag: "v1"}) {
			t.Error("it holds content of an unknown upstream")
		}
	})
}
