// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

var nowhere = digest.FromString("nowhere")

// all are questions of every kind for what no registry has, with what a 404 is called.
var all = map[string]route.Request{
	"MANIFEST_UNKNOWN": tag("nothing"), "MANIFEST_UNKNOWN ": byDigest(nowhere), "NAME_UNKNOWN": tags(""), "NAME_UNKNOWN ": tags("n=2"),
	"UNSUPPORTED": referrers(nowhere, ""), "BLOB_UNKNOWN": blob(nowhere),
}

// ask asks for anything.
func (s *setup) ask(t testing.TB, r route.Request) error {
	t.Helper()
	var err error
	if r.Kind == route.Blob {
		_, err = s.Stat(ctx, r)
		var stat, fetch *Error
		if errors.As(err, &stat) && errors.As(s.fetch(t, s.Upstream, r.Digest, -1).err, &fetch) {
			if stat.Detail, fetch.Detail = "", ""; *stat != *fetch { // a HEAD says less
				t.Errorf("stat says %v, fetch %v", stat, fetch)
			}
		}
		return err
	}
	_, err = s.Ask(ctx, r, "")
	return err
}

// TestAnswers has what the upstream's statuses mean for clients.
func TestAnswers(t *testing.T) {
	s := start(t, patient, nil)
	for _, test := range []struct {
		upstream, status int
		code             string
	}{
		{400, 404, ""}, {401, 503, "UNAVAILABLE"}, {403, 403, "DENIED"}, {404, 404, ""}, {418, 404, ""}, {429, 429, "TOOMANYREQUESTS"},
		{500, 502, "UNAVAILABLE"}, {502, 502, "UNAVAILABLE"}, {503, 503, "UNAVAILABLE"}, {504, 502, "UNAVAILABLE"}, {304, 502, "UNAVAILABLE"},
	} {
		s.g.misbehave(func(w http.ResponseWriter, _ *http.Request) bool { refuse(w, test.upstream); return true })
		for code, r := range all {
			if test.code != "" {
				code = test.code
			}
			e := isError(t, fmt.Sprintf("%d for %s", test.upstream, r.URI()), s.ask(t, r), test.status, strings.TrimSpace(code))
			if e.Upstream != test.upstream || e.NoAnswer() || strings.Contains(e.Message, "of the upstream") {
				t.Errorf("%d: %#v", test.upstream, e)
			}
		}
	}
}

// TestRetryAfter is the upstream's, in whole seconds, or 2.
func TestRetryAfter(t *testing.T) {
	s := start(t, patient, nil)
	for given, want := range map[string]time.Duration{"17": 17, "Wed, 21 Oct 2026 07:28:00 GMT": 2, "-1": 2, "": 2, "99999999999": 2} {
		s.g.misbehave(func(w http.ResponseWriter, _ *http.Request) bool { refuse(w, 429, "Retry-After", given); return true })
		for _, r := range all {
			if e := isError(t, given, s.ask(t, r), 429, "TOOMANYREQUESTS"); e.RetryAfter != want*time.Second {
				t.Errorf("%q: %s", given, e.RetryAfter)
			}
		}
	}
}

// TestManifest passes a manifest on, and has distribution keep it.
func TestManifest(t *testing.T) {
	s := start(t, patient, nil)
	d := s.g.image("v1")
	a := s.right(t, tag("v1"))
	if !a.Fresh() || a.Asked.IsZero() {
		t.Errorf("%+v", a)
	}
	s.right(t, byDigest(d))
	if heads, gets := s.g.count("HEAD v1"), s.g.count("GET v1")+s.g.count("GET "+d.String()); heads != 1 || gets != 1 {
		t.Errorf("%d HEADs, %d GETs", heads, gets)
	}
	for range 3 { // a tag that has not moved costs a HEAD
		s.right(t, tag("v1"))
	}
	moved := s.g.image("v1")
	s.right(t, tag("v1"))
	if heads, gets := s.g.count("HEAD v1"), s.g.count("GET v1")+s.g.count("GET "+moved.String()); heads != 5 || gets != 1 {
		t.Errorf("%d HEADs, %d GETs", heads, gets)
	}
	s = s.again(t, patient)
	s.g.Close()
	s.right(t, byDigest(d))
	s.right(t, byDigest(moved))
}

// TestTagMoves between the question and the answer.
func TestTagMoves(t *testing.T) {
	s := start(t, patient, nil)
	s.g.image("v1")
	var once sync.Once
	s.g.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
			once.Do(func() { s.g.image("v1") })
		}
		return false
	})
	a, err := s.Ask(ctx, tag("v1"), "")
	if err != nil || digest.FromBytes(a.Body) != a.Digest {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestUpstreamWithoutHead knows no HEAD, or says nothing of use in it.
func TestUpstreamWithoutHead(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request){
		"405":  func(w http.ResponseWriter, _ *http.Request) { refuse(w, 405) },
		"404":  func(w http.ResponseWriter, _ *http.Request) { refuse(w, 404) },
		"bare": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, patient, nil)
			s.g.misbehave(on(http.MethodHead, "/manifests/", fault))
			s.g.image("v1")
			for range 2 {
				if a := s.right(t, tag("v1")); !a.Fresh() {
					t.Errorf("stale: %v", a.Stale)
				}
			}
			it := s.g.items["v1"]
			it.digest = "" // and nobody says the digest
			s.g.put("v2", it)
			if a, err := s.Ask(ctx, tag("v2"), ""); err != nil || a.Digest != digest.FromBytes(it.content) {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
}

// schema1Manifest returns a signed manifest, and the digest of what is signed.
func schema1Manifest() (string, digest.Digest) {
	payload := `{"schemaVersion":1,"name":"some/image","tag":"v1","architecture":"amd64","fsLayers":[],"history":[]}`
	encode := base64.RawURLEncoding.EncodeToString
	body := strings.TrimSuffix(payload, "}")
	protected := encode(fmt.Appendf(nil, `{"formatLength":%d,"formatTail":%q,"time":"2026-11-30T00:00:00Z"}`, len(body), encode([]byte("}"))))
	return body + `,"signatures":[{"header":{},"signature":"x","protected":"` + protected + `"}]}`, digest.FromString(payload)
}

// TestManifestsThatDistributionCannotParse pass as they are, by one GET each (rows 11 and 12 of the issue).
func TestManifestsThatDistributionCannotParse(t *testing.T) {
	signedManifest, signedDigest := schema1Manifest()
	for _, it := range []item{
		{schema1Signed, signedDigest, []byte(signedManifest)},
		{schema1 + "; charset=utf-8", "", []byte(`{"schemaVersion":1,"name":"x","tag":"y"}`)},
		{"application/vnd.oci.artifact.manifest.v1+json", "", []byte(`{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","artifactType":"a/b"}`)},
		{"application/vnd.odd+json; x=\"", "", []byte(`{"a":1}`)},
		{"text/plain", "", []byte("no manifest at all")},
		{v1.MediaTypeImageManifest, "", []byte(`{"schemaVersion":3}`)},
	} {
		s := start(t, patient, nil)
		if it.digest == "" {
			it.digest = digest.FromBytes(it.content)
		}
		s.g.put("v1", it)
		s.g.put(it.digest.String(), it)
		if a := s.right(t, tag("v1")); !a.Fresh() {
			t.Errorf("%s: stale", it.mediaType)
		}
		if gets := s.g.count("GET v1") + s.g.count("GET "+it.digest.String()); gets != 1 {
			t.Errorf("%s: %d GETs", it.mediaType, gets)
		}
		s.right(t, byDigest(it.digest))
	}
}

// TestAccept wants whatever the upstream has, unless the types are named.
func TestAccept(t *testing.T) {
	s := start(t, patient, nil)
	var seen atomic.Value
	s.g.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			seen.Store(strings.Join(r.Header["Accept"], ", "))
		}
		return false
	})
	all := strings.Join(accepted, ", ")
	for accept, want := range map[string]string{
		"": all + ", */*", "*/*": all + ", */*", "a/b, */*;q=0.1": all + ", a/b, */*;q=0.1", "application/json": "application/json",
	} {
		d := s.g.image("v1")
		if a, err := s.Ask(ctx, tag("v1"), accept); err != nil || a.Digest != d {
			t.Errorf("%s: %+v, %v", accept, a, err)
		}
		if got := seen.Load().(string); got != want {
			t.Errorf("%s: asked for %s", accept, got)
		}
	}
}

// TestNamedTypes get the manifest that the upstream has for them, which the tag is not for others.
func TestNamedTypes(t *testing.T) {
	s := start(t, patient, nil)
	index := s.g.manifest("index", v1.MediaTypeImageIndex, `{"schemaVersion":2,"mediaType":"`+v1.MediaTypeImageIndex+`","manifests":[]}`)
	image := s.g.image("image")
	s.g.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		s.g.mu.Lock()
		defer s.g.mu.Unlock()
		s.g.items["v1"] = s.g.items["image"]
		if strings.Contains(strings.Join(r.Header["Accept"], ","), v1.MediaTypeImageIndex) {
			s.g.items["v1"] = s.g.items["index"]
		}
		return false
	})
	for range 2 {
		if a, err := s.Ask(ctx, tag("v1"), v1.MediaTypeImageManifest); err != nil || a.Digest != image {
			t.Errorf("%+v, %v", a, err)
		}
		if a, err := s.Ask(ctx, tag("v1"), ""); err != nil || a.Digest != index {
			t.Errorf("%+v, %v", a, err)
		}
	}
	if _, err := s.Ask(ctx, tag("v1"), v1.MediaTypeImageManifest); err != nil {
		t.Error(err)
	}
	s.g.Close()
	if a, err := s.Ask(ctx, tag("v1"), ""); err != nil || a.Digest != index || a.Fresh() {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestManifestOfAnotherDigest reaches nobody.
func TestManifestOfAnotherDigest(t *testing.T) {
	s := start(t, patient, nil)
	d := s.g.image("v1")
	it := s.g.items["v1"]
	it.content = append(it.content, ' ')
	s.g.put(d.String(), it)
	isError(t, "by digest", s.ask(t, byDigest(d)), 502, "UPSTREAM_INVALID")
	isError(t, "by tag", s.ask(t, tag("v1")), 502, "UPSTREAM_INVALID")
	if n := s.value(t, "registry_cache_refused_total", "manifest", "digest"); n != 2 {
		t.Errorf("%v refused", n)
	}
	it.content = randomBytes(manifestLimit + 1)
	s.g.put(d.String(), it)
	isError(t, "too long", s.ask(t, byDigest(d)), 502, "UPSTREAM_INVALID")
	s.g.misbehave(on(http.MethodGet, "/manifests/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("{"))
	}))
	isError(t, "cut", s.ask(t, byDigest(d)), 502, "UNAVAILABLE")
}

// TestStaleTag is served as it was known last, and says why.
func TestStaleTag(t *testing.T) {
	s := start(t, patient, nil)
	d := s.g.image("v1")
	s.right(t, tag("v1"))
	for _, status := range []int{401, 403, 404, 429, 500, 503} {
		s.g.misbehave(func(w http.ResponseWriter, _ *http.Request) bool { refuse(w, status); return true })
		a := s.right(t, tag("v1"))
		if a.Fresh() || a.Stale.Upstream != status || a.Digest != d {
			t.Errorf("%d: %+v", status, a)
		}
		if a := s.right(t, byDigest(d)); !a.Fresh() {
			t.Error("a digest is never stale")
		}
		isError(t, "another tag", s.ask(t, tag("v2")), map[int]int{401: 503, 403: 403, 404: 404, 429: 429, 500: 502, 503: 503}[status],
			map[int]string{403: "DENIED", 404: "MANIFEST_UNKNOWN", 429: "TOOMANYREQUESTS"}[status]+map[bool]string{true: "UNAVAILABLE"}[status != 403 && status != 404 && status != 429])
	}
	s.g.misbehave(nil)
	if a := s.right(t, tag("v1")); !a.Fresh() {
		t.Error("stale although the upstream is back")
	}
	// A tag that has moved to what cannot be had is still the old one.
	moved := s.g.image("v1")
	old := s.g.items[d.String()]
	s.g.misbehave(on(http.MethodGet, "/manifests/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 500) }))
	for range 2 {
		a, err := s.Ask(ctx, tag("v1"), "")
		if err != nil || a.Fresh() || string(a.Body) != string(old.content) {
			t.Errorf("%+v, %v", a, err)
		}
	}
	s.g.misbehave(nil)
	if a := s.right(t, tag("v1")); a.Digest != moved {
		t.Error("not moved")
	}
	s = s.again(t, patient)
	s.g.Close()
	if a, err := s.Ask(ctx, tag("v1"), ""); err != nil || a.Fresh() || a.Digest != moved || !a.Stale.NoAnswer() {
		t.Errorf("after a restart: %+v, %v", a, err)
	}
}

// TestSlowTag leaves all others alone (row 5 of the issue).
func TestSlowTag(t *testing.T) {
	limits := patient
	limits.Challenge = 8 * briefly
	s := start(t, limits, nil)
	d := s.g.image("slow")
	s.g.image("other")
	s.right(t, tag("slow"))
	s.g.misbehave(on("", "/manifests/slow", hang))
	var slow sync.WaitGroup
	slow.Go(func() { s.late(t, tag("slow")) })
	until(t, "the question", func() bool { return s.g.count("HEAD slow") == 2 })
	for range 3 {
		for _, r := range []route.Request{tag("other"), byDigest(d)} {
			if a := s.right(t, r); !a.Fresh() {
				t.Errorf("stale: %v", a.Stale)
			}
		}
	}
	slow.Wait()
	if s.health.out() != nil {
		t.Error("the upstream is out because of one tag")
	}
	if s.g.count("GET v2") > 1 {
		t.Errorf("%d challenges", s.g.count("GET v2"))
	}
}

// TestStall ends what nobody else ends. A tag is served as it was known last.
func TestStall(t *testing.T) {
	limits := patient
	limits.Stall = 2 * briefly
	s := start(t, limits, nil)
	for _, method := range []string{"HEAD", "GET"} {
		s.g.misbehave(on(method, "/manifests/", hang))
		s.g.image("v1")
		isError(t, "a manifest", s.ask(t, tag("v1")), 504, "UNAVAILABLE")
	}
	s.g.misbehave(on("GET", "/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("{"))
		_ = http.NewResponseController(w).Flush()
		hang(w, r)
	}))
	isError(t, "half a manifest", s.ask(t, byDigest(nowhere)), 504, "UNAVAILABLE")
	isError(t, "half a list", s.ask(t, tags("")), 504, "UNAVAILABLE")
	s.g.misbehave(nil)
	s.right(t, tag("v1"))
	s.g.misbehave(on("", "/manifests/", hang))
	if a := s.right(t, tag("v1")); a.Fresh() || !a.Stale.Timeout() || !a.Stale.NoAnswer() {
		t.Errorf("%+v", a)
	}
}

// TestSlowContentArrives however long it takes (row 13 of the issue), and a second question is asked beside a slow one.
func TestSlowContentArrives(t *testing.T) {
	for name, r := range map[string]func(d digest.Digest) route.Request{
		"tag": func(digest.Digest) route.Request { return tag("v1") }, "digest": byDigest,
		"tags":      func(digest.Digest) route.Request { return tags("") },
		"referrers": func(d digest.Digest) route.Request { return referrers(d, "") },
	} {
		t.Run(name, func(t *testing.T) {
			limits := patient
			limits.Challenge = 4 * briefly
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
				a, err := s.Ask(ctx, r(d), "")
				if err == nil && (!a.Fresh() || len(a.Body) == 0) {
					err = fmt.Errorf("%+v", a)
				}
				slow <- err
			}()
			until(t, "the challenge", func() bool { return s.g.count("GET v2") > 0 })
			if a, err := s.Ask(ctx, r(d), ""); err != nil || !a.Fresh() {
				t.Errorf("the second: %+v, %v", a, err)
			}
			close(release)
			if err := <-slow; err != nil {
				t.Errorf("the first: %v", err)
			}
		})
	}
}

// TestDown is an upstream that refuses connections: that is said at once, and known for a while.
func TestDown(t *testing.T) {
	s := start(t, patient, nil)
	d := s.g.image("v1")
	s.right(t, tag("v1"))
	s.g.Close()
	for _, r := range all {
		if e := isError(t, r.URI(), s.ask(t, r), 502, "UNAVAILABLE"); !e.NoAnswer() {
			t.Errorf("%#v", e)
		}
	}
	if n := s.value(t, "registry_cache_upstream_requests_total", "unreachable"); n != 2 { // one question, one challenge
		t.Errorf("%v requests", n)
	}
	if s.right(t, byDigest(d)); s.right(t, tag("v1")).Fresh() || s.value(t, "registry_cache_upstream_out") != 1 {
		t.Error("fresh")
	}
}

// TestSilent is an upstream that accepts connections and says nothing. Many who ask wait for one challenge, and then nobody
// waits for a while. It ends with the first answer.
func TestSilent(t *testing.T) {
	limits := patient
	limits.Challenge, limits.Remember = 300*time.Millisecond, time.Second
	s := start(t, limits, nil)
	s.g.image("v1")
	s.right(t, tag("v1"))
	s.g.misbehave(on("", "", hang))
	var clients sync.WaitGroup
	begun := time.Now()
	for i := range 50 {
		clients.Go(func() {
			if i%2 == 0 {
				if a := s.right(t, tag("v1")); a.Fresh() || a.Stale.Status != 504 {
					t.Errorf("%+v", a)
				}
				return
			}
			isError(t, "unknown", s.ask(t, tag(fmt.Sprint("w", i))), 504, "UNAVAILABLE")
		})
	}
	clients.Wait()
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	if n := s.g.count("GET v2"); n > 1 {
		t.Errorf("%d challenges", n)
	}
	isError(t, "blob", s.ask(t, blob(nowhere)), 504, "UNAVAILABLE")
	s.g.misbehave(nil)
	until(t, "fresh", func() bool { return s.right(t, tag("v1")).Fresh() })
	if s.value(t, "registry_cache_upstream_out") != 0 {
		t.Error("still out")
	}
}

// TestChallengeSays that the upstream lives: what it is silent about is then waited for.
func TestChallengeSays(t *testing.T) {
	limits := patient
	limits.Challenge = 100 * time.Millisecond
	s := start(t, limits, nil)
	s.g.image("v1")
	s.g.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/" {
			refuse(w, 503) // an answer is an answer
			return true
		}
		time.Sleep(3 * limits.Challenge)
		return false
	})
	if a := s.right(t, tag("v1")); !a.Fresh() {
		t.Error("stale")
	}
	if s.g.count("GET v2") == 0 {
		t.Error("no challenge")
	}
}

// TestLists are the upstream's, whatever is asked (row 16 of the issue).
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
		a, err := s.Ask(ctx, r, "application/json")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(a.Body), fmt.Sprintf("%q", r.URI())) || !a.Fresh() || a.Size != int64(len(a.Body)) {
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

// TestWrongUse is an error, not a panic.
func TestWrongUse(t *testing.T) {
	s := start(t, patient, nil)
	if _, err := s.Ask(ctx, blob(nowhere), ""); err == nil {
		t.Error("a blob by Ask")
	}
	if n := s.Size(tag("v1")); n >= 0 {
		t.Error("the size of a tag")
	}
	if _, err := s.Stat(ctx, tag("v1")); err == nil {
		t.Error("a tag by Stat")
	}
	if err := s.Fetch(ctx, tag("v1"), nil); err == nil {
		t.Error("a tag by Fetch")
	}
	_ = s.Close()
	isError(t, "closed", s.ask(t, tag("v1")), 502, "UNAVAILABLE")
}

// Whatever an upstream signs, what was signed is a beginning of it and a tail.
func FuzzSigned(f *testing.F) {
	manifest, _ := schema1Manifest()
	f.Add([]byte(manifest))
	f.Add([]byte(`{"signatures":[{"protected":"eyJmb3JtYXRMZW5ndGgiOi0xfQ"}]}`))
	f.Add([]byte(`{"signatures":[]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		before := string(content)
		_, _ = signed(content)
		if string(content) != before {
			t.Error("changed")
		}
	})
}

// A link leads to the same path of the cache, or nowhere.
func FuzzRelative(f *testing.F) {
	for _, link := range []string{`</v2/a/tags/list?n=1>; rel="next"`, `<https://evil.example/x?y=z>; rel=next`, "<", "<>", "", "x", "<?>"} {
		f.Add(link)
	}
	f.Fuzz(func(t *testing.T, link string) {
		if got, ok := relative(link, tags("")); ok && !strings.HasPrefix(got, "</v2/some/image/tags/list?") {
			t.Errorf("%q: %q", link, got)
		}
	})
}
