// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestSlowContentArrives checks that slow content arrives, and that a second request is sent while the first one is
// slow.
func TestSlowContentArrives(t *testing.T) {
	for name, r := range map[string]func(d digest.Digest) route.Request{
		"tag": func(digest.Digest) route.Request { return tag("v1") }, "digest": byDigest,
		"tags":      func(digest.Digest) route.Request { return tags("") },
		"referrers": func(d digest.Digest) route.Request { return referrers(d, "") },
	} {
		t.Run(name, func(t *testing.T) {
			limits := patient
			limits.Challenge = soon
			s := start(t, limits, nil)
			d := s.g.image("v1")
			s.g.put("list", item{"application/json", "", []byte(`{"tags":["v1"]}`)})
			release := make(chan struct{})
			var waits atomic.Int32
			s.g.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/v2/" && waits.Add(1) == 1 {
					<-release
				}
				return false
			})
			slow := make(chan error)
			go func() {
				a, err := s.Get(ctx, r(d), "")
				if err == nil && (!a.Fresh() || len(a.Body) == 0) {
					err = fmt.Errorf("%+v", a)
				}
				slow <- err
			}()
			testutil.Eventually(t, "the challenge", func() bool { return s.g.count("GET v2") > 0 })
			if a, err := s.Get(ctx, r(d), ""); err != nil || !a.Fresh() {
				t.Errorf("the second: %+v, %v", a, err)
			}
			close(release)
			if err := <-slow; err != nil {
				t.Errorf("the first: %v", err)
			}
		})
	}
}

// TestLists checks that lists are passed on from the upstream for any query.
func TestLists(t *testing.T) {
	s := start(t, patient, nil)
	d := digest.FromString("subject")
	s.g.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/list") && !strings.Contains(r.URL.Path, "/referrers/") {
			return false
		}
		w.Header().Set("Link", fmt.Sprintf(`<%s/v2/some/image/other?page=2&n=1>; rel="next"`, s.g.URL))
		w.Header().Set("OCI-Filters-Applied", "artifactType")
		w.Header().Set("Content-Type", "application/json; odd=1")
		w.Header().Set("Set-Cookie", "x=1")
		_, _ = fmt.Fprintf(w, `{"asked":%q,"accept":%q}`, r.URL.RequestURI(), r.Header.Get("Accept"))
		return true
	})
	for _, r := range []route.Request{tags(""), tags("last=b"), tags("last=b&n=2"), referrers(d, ""), referrers(d, "artifactType=a%2Fb")} {
		a, err := s.Get(ctx, r, "application/json")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(a.Body), fmt.Sprintf("%q", r.URI())) || !a.Fresh() {
			t.Errorf("%s: %s", r.URI(), a.Body)
		}
		if want := `<` + r.Path() + `?page=2&n=1>; rel="next"`; a.Header.Get("Link") != want {
			t.Errorf("Link %q, want %q", a.Header.Get("Link"), want)
		}
		if len(a.Header) != 3 || a.Header.Get("Content-Type") != "application/json; odd=1" || a.Header.Get("OCI-Filters-Applied") != "artifactType" {
			t.Errorf("header %v", a.Header)
		}
	}
	s.g.misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write(make([]byte, listLimit+1))
		return true
	})
	isError(t, "too long", s.ask(t, tags("")), 502, "UPSTREAM_INVALID")
}

func TestRelative(t *testing.T) {
	const path = "/v2/some/image/tags/list"
	for field, want := range map[string]string{
		`<https://up.example/x?n=1>; rel="next"`: `<` + path + `?n=1>; rel="next"`,
		`</first>; rel="first"; title="<a?b>, \"<", </v2/some/image/tags/list?n=1&last=a>; rel="next"`: `<` + path +
			`>; rel="first"; title="<a?b>, \"<", <` + path + `?n=1&last=a>; rel="next"`,
		`</x>; rel="next"`: `<` + path + `>; rel="next"`,
		`<%?a=b>`:          `<` + path + `>`,
		`<x?a=b`:           `<` + path + `?a=b`,
	} {
		if got := relativeLinks(field, tags("")); got != want {
			t.Errorf("%s: %s, want %s", field, got, want)
		}
	}
}

// FuzzRelative checks that a link has the request's path or is not a link.
func FuzzRelative(f *testing.F) {
	for _, link := range []string{`</v2/a/tags/list?n=1>; rel="next"`, `<https://evil.example/x?y=z>; rel=next`, "<", "<>", "", "x", "<?>"} {
		f.Add(link)
	}
	f.Fuzz(func(t *testing.T, link string) {
		got := relativeLinks(link, tags(""))
		if strings.Contains(link, `"`) {
			return // quoted text is not a link
		}
		for _, to := range strings.Split(got, "<")[1:] {
			if !strings.HasPrefix(to, "/v2/some/image/tags/list") {
				t.Errorf("%q: %q", link, got)
			}
		}
	})
}

// TestFetchSize checks that a blob's size is found with one download, however the upstream provides it.
func TestFetchSize(t *testing.T) {
	content := testutil.RandomBytes(1000)
	chunked := func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write(content)
	}
	noHead := func(w http.ResponseWriter, _ *http.Request) { refuse(w, 405) }
	for name, test := range map[string]struct {
		head, get func(w http.ResponseWriter, r *http.Request)
		heads     int
		ok        bool
	}{
		"both": {nil, nil, 0, true}, "no HEAD": {noHead, nil, 0, true}, "chunked HEAD": {chunked, nil, 0, true},
		"chunked GET": {nil, chunked, 1, true}, "chunked": {chunked, chunked, 1, false}, "no HEAD, chunked GET": {noHead, chunked, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, patient, nil)
			d := digest.FromBytes(content)
			s.g.put(d.String(), item{"application/octet-stream", d, content})
			s.g.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				return test.head != nil && on("HEAD", "/blobs/", test.head)(w, r) || test.get != nil && on("GET", "/blobs/", test.get)(w, r)
			})
			f := s.fetch(t, s.Upstream, d, -1)
			if gets, heads := s.g.count("GET "+d.String()), s.g.count("HEAD "+d.String()); gets != 1 || heads != test.heads {
				t.Errorf("%d GETs, %d HEADs", gets, heads)
			}
			if test.ok {
				s.good(t, s.Upstream, f, d, content)
				return
			}
			if e := isError(t, "fetch", f.err, 502, "UPSTREAM_INVALID"); !strings.Contains(e.Message, "length") {
				t.Errorf("%q does not say what is missing", e.Message)
			}
		})
	}
}
