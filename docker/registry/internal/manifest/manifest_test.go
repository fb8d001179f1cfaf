// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

func TestHeadAndGetOfATagShareOneCheck(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(slow(300*time.Millisecond, has(ociManifest, oneBody)))
		var clients sync.WaitGroup
		for i := range 20 {
			clients.Go(func() {
				method, body := http.MethodGet, oneBody
				if i%2 == 0 {
					method, body = http.MethodHead, ""
				}
				r := h.do(method, tagURI, "Accept", fmt.Sprintf("%s, application/x-%d", ociManifest, i))
				if r.Code != 200 || r.Body.String() != body {
					t.Errorf("%s: %d %q", method, r.Code, r.Body)
				}
				for name, value := range map[string]string{
					"Content-Type": ociManifest, "Docker-Content-Digest": sha(oneBody), "Etag": `"` + sha(oneBody) + `"`,
					"Content-Length": fmt.Sprint(len(oneBody)), "Docker-Distribution-Api-Version": "registry/2.0",
				} {
					if got := r.Header().Get(name); got != value {
						t.Errorf("%s %s: %q, want %q", method, name, got, value)
					}
				}
			})
		}
		clients.Wait()
		h.wantAsked("", 1)
		if r := h.get(tagURI); r.result != Hit || r.Header().Get("Cache-Status") != "registry-cache; hit" {
			t.Errorf("%s %v", r.result, r.Header())
		}
		h.wantAsked("", 1)
	})
}

func TestTagIsCheckedAgainAfterTTL(t *testing.T) {
	inBubble(t, Options{TTL: 3 * time.Second}, nil, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		h.wantFresh(h.get(tagURI), oneBody)
		h.says(has(ociIndex, twoBody))
		time.Sleep(2900 * time.Millisecond)
		r := h.get(tagURI)
		h.wantFresh(r, oneBody)
		if r.Header().Get("Age") != "2" {
			t.Errorf("Age %q", r.Header().Get("Age"))
		}
		time.Sleep(200 * time.Millisecond)
		r = h.get(tagURI)
		h.wantFresh(r, twoBody)
		if r.result != Miss || r.Header().Get("Docker-Content-Digest") != sha(twoBody) || r.Header().Get("Content-Type") != ociIndex {
			t.Errorf("%s %v", r.result, r.Header())
		}
		h.wantAsked("", 2)
	})
}

func TestAgeOfATagShortensTTL(t *testing.T) {
	inBubble(t, Options{TTL: 3 * time.Second}, nil, func(h *handle) {
		a := ok(ociManifest, oneBody) // like from an owner that asked the upstream two seconds ago
		a.Age = 2 * time.Second
		h.says(func(context.Context, route.Request, string) (*Answer, error) { return a, nil })
		h.get(tagURI)
		time.Sleep(900 * time.Millisecond)
		h.get(tagURI)
		h.wantAsked("", 1)
		time.Sleep(200 * time.Millisecond)
		h.get(tagURI)
		h.wantAsked("", 2)
	})
}

func TestManifestByDigestIsFetchedOnce(t *testing.T) {
	for _, d := range []string{sha(oneBody), sha512(oneBody)} {
		inBubble(t, Options{}, nil, func(h *handle) {
			h.says(has(ociManifest, oneBody))
			for range 3 {
				r := h.get("/v2/p/i/manifests/" + d)
				h.wantFresh(r, oneBody)
				if r.Header().Get("Docker-Content-Digest") != d {
					t.Error(r.Header())
				}
				time.Sleep(time.Hour)
			}
			h.wantAsked("", 1)
			// Content of one repository must not be served for another.
			h.says(fails(404))
			h.want(h.get("/v2/p/other/manifests/"+d), 404, "")
		})
	}
}

func TestTagAlsoCachesItsDigest(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		h.get(tagURI)
		h.wantFresh(h.get("/v2/p/i/manifests/"+sha(oneBody)), oneBody)
		h.wantAsked("", 1)
	})
}

func TestWrongContentIsNotServed(t *testing.T) {
	store := newStore()
	inBubble(t, Options{}, store, func(h *handle) {
		wrong := ok(ociManifest, oneBody)
		wrong.Header.Set("Docker-Content-Digest", sha(twoBody))
		h.says(func(context.Context, route.Request, string) (*Answer, error) { return wrong, nil })
		for _, reference := range []string{sha(twoBody), "1.0"} {
			r := h.get("/v2/p/i/manifests/" + reference)
			h.want(r, 502, "")
			if strings.Contains(r.Body.String(), "schemaVersion") {
				t.Error(r.Body)
			}
		}
		synctest.Wait()
		if store.puts > 0 {
			t.Errorf("kept: %v", store.files)
		}
		time.Sleep(3 * time.Second)
		h.says(has(ociIndex, twoBody))
		h.wantFresh(h.get("/v2/p/i/manifests/"+sha(twoBody)), twoBody)
	})
}

func TestWrongAnswers(t *testing.T) {
	for name, say := range map[string]func(context.Context, route.Request, string) (*Answer, error){
		"large":        has(ociManifest, strings.Repeat(" ", 4<<20+1)),
		"empty":        has(ociManifest, ""),
		"not modified": fails(304),
		"partial":      fails(206),
		"none":         func(context.Context, route.Request, string) (*Answer, error) { return nil, nil },
		"unreachable":  unreachable,
		"panic":        func(context.Context, route.Request, string) (*Answer, error) { panic("of distribution") },
		"odd digest": func(context.Context, route.Request, string) (*Answer, error) {
			a := ok(ociManifest, oneBody)
			a.Header.Set("Docker-Content-Digest", "md5:d41d8cd98f00b204e9800998ecf8427e")
			return a, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Options{}, nil, func(h *handle) {
				h.says(say)
				r := h.get(tagURI)
				h.want(r, 502, "")
				if r.Header().Get("Retry-After") != "2" || r.result != Failed || !strings.Contains(r.Body.String(), `"UNAVAILABLE"`) {
					t.Errorf("%s %v %s", r.result, r.Header(), r.Body)
				}
				time.Sleep(3 * time.Second)
				h.says(has(ociManifest, strings.Repeat(" ", 4<<20)))
				h.want(h.get(tagURI), 200, "")
			})
		})
	}
}

func TestUpstreamErrors(t *testing.T) {
	for status, want := range map[int]int{401: 503, 403: 403, 404: 404, 429: 429, 500: 500, 503: 503} {
		inBubble(t, Options{}, nil, func(h *handle) {
			h.says(func(context.Context, route.Request, string) (*Answer, error) {
				return &Answer{Status: status, Code: "CODE", Message: strings.Repeat("x", 9999), Header: http.Header{"Retry-After": {"30"}}}, nil
			})
			r := h.get(tagURI)
			h.want(r, want, "")
			if r.Header().Get("Www-Authenticate") != "" || r.Body.Len() > 1000 {
				t.Errorf("%v %s", r.Header(), r.Body)
			}
			if status != 401 && (r.Header().Get("Retry-After") != "30" || !strings.Contains(r.Body.String(), `"CODE"`)) {
				t.Errorf("%v %s", r.Header(), r.Body)
			}
		})
	}
}

func TestErrorIsSharedForTwoSeconds(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(fails(404))
		h.get(tagURI)
		time.Sleep(1900 * time.Millisecond)
		r := h.do(http.MethodHead, tagURI)
		h.want(r, 404, "")
		if r.result != Absent || r.Header().Get("Age") != "1" || r.Body.Len() > 0 {
			t.Errorf("%s %v %s", r.result, r.Header(), r.Body)
		}
		h.wantAsked("", 1)
		h.get("/v2/p/other/manifests/1.0")
		h.wantAsked("", 2)
		time.Sleep(200 * time.Millisecond)
		h.says(has(ociManifest, oneBody))
		h.wantFresh(h.get(tagURI), oneBody)
	})
}

func TestAgeOfAnErrorCounts(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(func(context.Context, route.Request, string) (*Answer, error) {
			return &Answer{Status: 404, Code: "MANIFEST_UNKNOWN", Age: 1500 * time.Millisecond}, nil
		})
		if r := h.get(tagURI); r.Header().Get("Age") != "1" {
			t.Error(r.Header())
		}
		time.Sleep(400 * time.Millisecond)
		h.get(tagURI)
		h.wantAsked("", 1)
		time.Sleep(200 * time.Millisecond)
		h.get(tagURI)
		h.wantAsked("", 2)
	})
}

func TestAcceptValuesShareOneEntry(t *testing.T) {
	inBubble(t, Options{TTL: time.Hour}, nil, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		h.get(tagURI)
		before := h.stats()
		for i := range 2000 {
			h.wantFresh(h.get(tagURI, "Accept", fmt.Sprintf("application/x-%d;q=0.%d", i, i)), oneBody)
			h.wantFresh(h.get("/v2/p/i/manifests/"+sha(oneBody), "Accept", fmt.Sprintf("text/x-%d", i)), oneBody)
		}
		h.wantAsked("", 1)
		if after := h.stats(); after != before {
			t.Errorf("before %+v, after %+v", before, after)
		}
		// All sets of known types, with an upstream that ignores them.
		for c := range class(1<<len(knownTypes) - 1) {
			h.wantFresh(h.get(tagURI, "Accept", (c+1).acceptHeader()), oneBody)
		}
		h.wantAsked("", 2)
	})
}

func TestClientsThatAcceptAnything(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		for _, header := range [][]string{
			nil, {"Accept", "*/*"}, {"Accept", "application/json"}, {"Accept", ""}, {"Accept", "application/*"},
			{"Accept", "text/html", "Accept", "*/*;q=0.1"}, {"Accept", ociManifest}, {"Accept", "garbage"},
		} {
			for _, reference := range []string{"1.0", sha(oneBody)} {
				r := h.get("/v2/p/i/manifests/"+reference, header...)
				h.wantFresh(r, oneBody)
				if r.Header().Get("Content-Type") != ociManifest {
					t.Error(r.Header())
				}
			}
		}
		h.wantAsked("", 1)
		h.wantAsked("*/*", 1)
		h.wantAsked(ociIndex, 1)
	})
}

func TestUpstreamThatHonorsAccept(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		converted := `{"schemaVersion":2,"mediaType":"` + dockerManifest + `"}`
		h.says(func(_ context.Context, _ route.Request, accept string) (*Answer, error) {
			switch {
			case strings.Contains(accept, ociIndex):
				return ok(ociIndex, twoBody), nil
			case strings.Contains(accept, dockerManifest):
				return ok(dockerManifest, converted), nil
			}
			return &Answer{Status: 404, Code: "MANIFEST_UNKNOWN"}, nil
		})
		h.wantFresh(h.get(tagURI), twoBody)
		r := h.get(tagURI, "Accept", dockerManifest+", application/x-1")
		h.wantFresh(r, converted)
		if r.Header().Get("Content-Type") != dockerManifest || r.Header().Get("Docker-Content-Digest") != sha(converted) {
			t.Error(r.Header())
		}
		h.want(h.get(tagURI, "Accept", ociManifest), 404, "")
		h.wantFresh(h.get(tagURI, "Accept", dockerManifest+", application/x-2"), converted)
		h.wantFresh(h.get(tagURI, "Accept", ociIndex), twoBody)
		h.wantAsked("", 3)
		// An outage between the two questions.
		time.Sleep(3 * time.Second)
		h.says(func(_ context.Context, _ route.Request, accept string) (*Answer, error) {
			if accept == acceptAny {
				return ok(ociIndex, twoBody), nil
			}
			return nil, errors.New("reset")
		})
		h.wantFresh(h.get(tagURI, "Accept", ociManifest), twoBody)
		time.Sleep(3 * time.Second)
		// Silent upstream: no client waits twice.
		h.says(hangs)
		h.wantStale(h.get(tagURI, "Accept", ociManifest), twoBody, 2*time.Second)
		time.Sleep(time.Minute)
		// Upstream down: clients get the known manifest, even if they do not accept its type.
		time.Sleep(2 * time.Second)
		h.says(fails(503))
		h.wantStale(h.get(tagURI), twoBody, 0)
		h.wantStale(h.get(tagURI, "Accept", ociManifest), twoBody, 0)
	})
}

func TestUnknownManifestTypeIsPassedOn(t *testing.T) {
	store := newStore()
	for mediaType, body := range map[string]string{
		dockerSchema1Signed:                  `{"schemaVersion":1,"signatures":[]}`,
		ociArtifact:                          `{"mediaType":"` + ociArtifact + `","blobs":[]}`,
		"application/vnd.odd+json; a=b":      `{}`,
		"application/vnd.odd":                "no JSON at all\x00\xff",
		"application/vnd.oci.image.index.v1": `[1,2,3]`,
	} {
		inBubble(t, Options{}, store, func(h *handle) {
			h.says(has(mediaType, body))
			for _, reference := range []string{"1.0", sha(body), sha512(body)} {
				r := h.get("/v2/p/i/manifests/" + reference)
				h.wantFresh(r, body)
				if r.Header().Get("Content-Type") != mediaType {
					t.Error(r.Header())
				}
			}
		})
		// The store has the manifest and its type.
		inBubble(t, Options{}, store, func(h *handle) {
			for _, reference := range []string{sha(body), sha512(body)} {
				r := h.get("/v2/p/i/manifests/" + reference)
				h.wantFresh(r, body)
				if r.Header().Get("Content-Type") != mediaType || r.Header().Get("Docker-Content-Digest") != reference {
					t.Error(r.Header())
				}
			}
			h.wantStale(h.get(tagURI), body, 0)
		})
	}
}

func TestConditionalRequest(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(has(ociManifest, oneBody))
		for value, status := range map[string]int{
			`"` + sha(oneBody) + `"`: 304, `W/"` + sha(oneBody) + `"`: 304, `"x", "` + sha(oneBody) + `"`: 304, "*": 304, `"x"`: 200, "": 200,
		} {
			if r := h.get(tagURI, "If-None-Match", value); r.Code != status || r.Code == 304 && r.Body.Len() > 0 {
				t.Errorf("%s: %d %s", value, r.Code, r.Body)
			}
		}
	})
}

func TestRefusals(t *testing.T) {
	h := newHandle(t, Options{}, nil)
	defer h.Close()
	r := h.do(http.MethodPut, tagURI)
	h.want(r, 405, "")
	if r.Header().Get("Allow") != "GET, HEAD" {
		t.Error(r.Header())
	}
	h.want(h.get("/v2/p/i/blobs/"+sha("x")), 404, "")
	h.want(h.get("/v2/_catalog"), 404, "")
	h.want(h.get(tagURI+"?ns=other.example"), 404, "")
	h.wantAsked("", 0)
}

func TestTagListIsTheUpstreams(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		const body = `{"name":"p/i","tags":["a","b"]}`
		h.says(func(_ context.Context, r route.Request, _ string) (*Answer, error) {
			a := ok("application/json", body)
			a.Header.Set("Link", `<https://up.example/v2/p/i/tags/list?n=2&last=b>; rel="next"`)
			return a, nil
		})
		r := h.get("/v2/p/i/tags/list?n=2&ns=" + host)
		h.want(r, 200, body)
		q := mustQuery(t, r.Header().Get("Link"))
		if q.Get("n") != "2" || q.Get("last") != "b" || q.Get("ns") != host || !strings.HasPrefix(r.Header().Get("Link"), "</v2/p/i/tags/list?") {
			t.Error(r.Header())
		}
		h.want(h.do(http.MethodHead, "/v2/p/i/tags/list?n=2"), 200, "")
		h.wantAsked("/v2/p/i/tags/list?n=2 ", 2) // one request each
		h.get("/v2/p/i/tags/list?last=1.0")
		h.wantAsked("/v2/p/i/tags/list?last=1.0&n=1000 ", 1)
		h.get("/v2/p/i/tags/list?last=1.0&n=3")
		h.wantAsked("/v2/p/i/tags/list?last=1.0&n=3 ", 1)
		// The list is never made from the tags in the store.
		h.says(fails(503))
		r = h.get("/v2/p/i/tags/list?n=2")
		h.want(r, 503, "")
		h.wantAsked("n=2 ", 3)
		h.get("/v2/p/i/tags/list?n=2")
		h.wantAsked("n=2 ", 3)
	})
}

func TestLargeTagList(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(has("application/json", strings.Repeat(" ", 16<<20)))
		h.want(h.get("/v2/p/i/tags/list"), 200, "")
		h.says(has("application/json", strings.Repeat(" ", 16<<20+1)))
		h.want(h.get("/v2/p/i/tags/list"), 502, "")
	})
}

func TestConcurrentTagListsAreShared(t *testing.T) {
	inBubble(t, Options{}, nil, func(h *handle) {
		h.says(slow(time.Second, has("application/json", `{"tags":null}`)))
		var clients sync.WaitGroup
		for range 10 {
			clients.Go(func() {
				if r := h.get("/v2/p/i/tags/list"); r.Code != 200 {
					t.Errorf("%d", r.Code)
				}
			})
		}
		clients.Wait()
		h.wantAsked("", 1)
	})
}

func TestMemoryIsBounded(t *testing.T) {
	inBubble(t, Options{Memory: 1 << 20}, nil, func(h *handle) {
		h.says(func(_ context.Context, r route.Request, _ string) (*Answer, error) {
			return ok(ociManifest, r.Tag+strings.Repeat(" ", 10<<10)), nil
		})
		for i := range 1000 {
			h.want(h.get(fmt.Sprintf("/v2/p/i/manifests/%d", i)), 200, "")
		}
		h.says(fails(404))
		for i := range 5000 {
			h.want(h.get(fmt.Sprintf("/v2/p/absent/manifests/%d", i)), 404, "")
		}
		s := h.stats()
		if s.MemoryBytes > 1<<20 || s.MemoryBytes < 1<<19 || s.Checks != 0 {
			t.Errorf("%+v", s)
		}
		last := digest.FromString("999" + strings.Repeat(" ", 10<<10))
		h.want(h.get("/v2/p/i/manifests/"+last.String()), 200, "")
	})
}

func TestCloseEndsChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandle(t, Options{}, newStore())
		h.says(hangs)
		var client sync.WaitGroup
		client.Go(func() {
			if r := h.get(tagURI); r.Code != 504 && r.Code != 503 {
				t.Errorf("%d %s", r.Code, r.Body)
			}
		})
		synctest.Wait()
		h.Close()
		client.Wait()
		h.want(h.get("/v2/p/i/manifests/2.0"), 503, "")
		h.wantAsked("", 1)
	})
}
