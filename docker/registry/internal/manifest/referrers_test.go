// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

const (
	indexHead = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[`
	signature = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:1","size":1,"artifactType":"a/signature","annotations":{"k":"v"}}`
	bom       = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:2","size":1,"artifactType":"a/bom"}`
	both      = indexHead + signature + "," + bom + `]}`
	onlySigns = indexHead + signature + `]}`
	empty     = indexHead + `]}`
)

func referrersURI(query string) string { return "/v2/p/i/referrers/" + sha("subject") + query }

// withoutEndpoint returns a registry without the referrers endpoint, which has referrers only by tag.
func withoutEndpoint(tags map[string]string) func(context.Context, route.Request, string) (*Answer, error) {
	return func(_ context.Context, r route.Request, _ string) (*Answer, error) {
		if body, ok := tags[r.Tag]; ok && r.Kind == route.Manifest {
			return okAs(body), nil
		}
		return &Answer{Status: 404, Code: "MANIFEST_UNKNOWN"}, nil
	}
}

func okAs(body string) *Answer { return ok(sniff([]byte(body)), body) }

func TestReferrersAreTheUpstreams(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(func(_ context.Context, r route.Request, accept string) (*Answer, error) {
			a := ok(ociIndex, onlySigns)
			a.Header.Set("OCI-Filters-Applied", "artifactType")
			a.Header.Set("Link", `<`+r.Path()+`?artifactType=a%2Fsignature&n=1&next=abc>; rel="next"`)
			return a, nil
		})
		r := h.get(referrersURI("?artifactType=a/signature&n=1&ns="+host), "Accept", ociManifest)
		h.wantFresh(r, onlySigns)
		if r.Header().Get("OCI-Filters-Applied") != "artifactType" || r.Header().Get("Content-Type") != ociIndex {
			t.Error(r.Header())
		}
		q := mustQuery(t, r.Header().Get("Link"))
		if q.Get("next") != "abc" || q.Get("ns") != host || q.Get("artifactType") != "a/signature" {
			t.Error(q)
		}
		if next := h.get(referrersURI("?" + q.Encode())); next.Header().Get("Link") != "" {
			t.Error("the last page has a link to itself")
		}
		// Equivalent requests share the answer.
		h.get(referrersURI("?n=1&artifactType=a%2fsignature"))
		h.wantAsked("", 2)
		h.wantAsked(referrersURI("?artifactType=a%2Fsignature&n=1 "), 1)
		time.Sleep(1100 * time.Millisecond)
		h.get(referrersURI("?n=1&artifactType=a/signature"))
		h.wantAsked("", 3)
	})
}

func TestReferrersAreFilteredIfTheUpstreamDoesNot(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(has(ociIndex, both))
		r := h.get(referrersURI("?artifactType=a/signature"))
		h.wantFresh(r, onlySigns)
		if r.Header().Get("OCI-Filters-Applied") != "artifactType" {
			t.Error(r.Header())
		}
		r = h.get(referrersURI(""))
		h.wantFresh(r, both)
		if r.Header().Get("OCI-Filters-Applied") != "" {
			t.Error(r.Header())
		}
		h.wantFresh(h.get(referrersURI("?artifactType=a/other")), empty)
		// If the upstream has filtered, its result is not filtered again.
		h.says(func(context.Context, route.Request, string) (*Answer, error) {
			a := ok(ociIndex, both)
			a.Header.Set("OCI-Filters-Applied", "artifactType")
			return a, nil
		})
		h.wantFresh(h.get(referrersURI("?artifactType=config/type")), both)
	})
}

func TestReferrersOfTheFallbackTag(t *testing.T) {
	tag := fallbackTag(digest.FromString("subject"))
	if tag != strings.Replace(sha("subject"), ":", "-", 1) || len(fallbackTag(digest.SHA512.FromString("x"))) != len("sha512-")+64 {
		t.Fatal(tag)
	}
	for name, c := range map[string]struct{ tags, all, signs string }{
		"index": {both, both, onlySigns},
		"none":  {"", empty, empty},
		"image": {oneBody, `{"manifests":[]}`, empty},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Options{}, nil, func(h *handle) {
				tags := map[string]string{}
				if c.tags != "" {
					tags[tag] = c.tags
				}
				h.says(withoutEndpoint(tags))
				r := h.get(referrersURI(""))
				h.wantFresh(r, c.all)
				if r.Header().Get("Content-Type") != ociIndex || !json.Valid(r.Body.Bytes()) {
					t.Error(r.Header())
				}
				h.wantFresh(h.get(referrersURI("?artifactType=a/signature")), c.signs)
				h.wantAsked("manifests/"+tag, 1) // they share the tag's check
				h.get(referrersURI(""))
				h.wantAsked("", 3)
			})
		})
	}
}

func TestReferrersAreStaleLikeTags(t *testing.T) {
	tag := fallbackTag(digest.FromString("subject"))
	for name, say := range map[string]func(context.Context, route.Request, string) (*Answer, error){
		"endpoint": func(_ context.Context, r route.Request, _ string) (*Answer, error) {
			a := ok(ociIndex, both)
			a.Header.Set("Link", `<`+r.Path()+`?page=2>; rel="next"`)
			return a, nil
		},
		"tag": withoutEndpoint(map[string]string{tag: both}),
	} {
		t.Run(name, func(t *testing.T) {
			store := newStore()
			inBubble(t, Options{}, store, func(h *handle) {
				h.says(say)
				for range 3 {
					h.wantFresh(h.get(referrersURI("")), both)
					time.Sleep(1100 * time.Millisecond)
				}
				before := store.puts
				h.wantFresh(h.get(referrersURI("?")), both)
				time.Sleep(1100 * time.Millisecond)
				if store.puts != before {
					t.Errorf("%d files were written of what is known", store.puts-before)
				}
				h.says(hangs)
				h.wantStale(h.get(referrersURI("")), both, 2*time.Second)
				h.wantStale(h.get(referrersURI("")), both, 0)
				// A missing endpoint says nothing about the tag.
				time.Sleep(time.Minute)
				h.says(func(_ context.Context, r route.Request, _ string) (*Answer, error) {
					if r.Kind == route.Referrers {
						return &Answer{Status: http.StatusNotFound}, nil
					}
					return nil, context.DeadlineExceeded
				})
				h.wantStale(h.get(referrersURI("")), both, 2*time.Second)
				time.Sleep(time.Minute)
				// Other referrers are not stale.
				h.says(say)
				h.want(h.get("/v2/p/other/referrers/"+sha("subject")), 200, "")
			})
			inBubble(t, Options{}, store, func(h *handle) { // after a restart
				r := h.get(referrersURI(""))
				h.wantStale(r, both, 0)
				if name == "endpoint" && mustQuery(t, r.Header().Get("Link")).Get("page") != "2" {
					t.Error(r.Header())
				}
				h.says(say)
				time.Sleep(2100 * time.Millisecond)
				h.wantFresh(h.get(referrersURI("")), both)
			})
		})
	}
}

func TestReferrersOfAFailingUpstream(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(fails(403))
		h.want(h.get(referrersURI("")), 403, "")
		h.says(has("text/html", "<html>"))
		h.want(h.get(referrersURI("?n=1")), 502, "")
		// No endpoint, and an error for the tag.
		h.says(func(_ context.Context, r route.Request, _ string) (*Answer, error) {
			if r.Kind == route.Referrers {
				return &Answer{Status: http.StatusNotFound}, nil
			}
			return &Answer{Status: http.StatusTooManyRequests}, nil
		})
		h.want(h.get(referrersURI("?n=2")), 429, "")
		// Slow referrers are returned to a later request.
		h.says(func(ctx context.Context, r route.Request, accept string) (*Answer, error) {
			if r.Kind == route.Referrers {
				return &Answer{Status: http.StatusNotFound}, nil
			}
			return slow(8*time.Second, has(ociIndex, both))(ctx, r, accept)
		})
		time.Sleep(3 * time.Second)
		h.want(h.get(referrersURI("")), 504, "")
		h.wantFresh(h.get(referrersURI("")), both)
	})
}

func TestFallbackNeedsNoSecondPlace(t *testing.T) {
	inBubble(t, Options{Checks: 1}, nil, func(h *handle) {
		h.says(withoutEndpoint(nil))
		h.wantFresh(h.get(referrersURI("")), empty)
		synctest.Wait()
		if s := h.stats(); s.Checks != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestEmptyReferrersTakeNoRoom checks that empty lists are not stored, except to replace another list.
func TestEmptyReferrersTakeNoRoom(t *testing.T) {
	kept := newStore()
	inBubble(t, Options{}, kept, func(h *handle) {
		h.says(has(ociIndex, empty))
		for i := range 10 {
			h.wantFresh(h.get("/v2/p/i/referrers/"+sha(strings.Repeat("x", i))), empty)
		}
		if synctest.Wait(); len(kept.files) > 0 {
			t.Errorf("%d files", len(kept.files))
		}
		h.says(has(ociIndex, both))
		h.wantFresh(h.get(referrersURI("")), both)
		time.Sleep(1100 * time.Millisecond)
		h.says(has(ociIndex, empty))
		h.wantFresh(h.get(referrersURI("")), empty)
	})
	inBubble(t, Options{}, kept, func(h *handle) {
		h.says(hangs)
		h.wantStale(h.get(referrersURI("")), empty, 2*time.Second)
	})
}
