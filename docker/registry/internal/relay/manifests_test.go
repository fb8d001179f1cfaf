// SPDX-License-Identifier: GPL-3.0-or-later

package relay

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/manifest"
	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
)

var (
	tag      = route.Request{Kind: route.Manifest, Upstream: "one.example", Repository: "a", Tag: "v1"}
	byDigest = route.Request{Kind: route.Manifest, Upstream: "one.example", Repository: "a", Digest: digest.FromString("stored")}
)

// says returns a manifest with an age.
func says(body string, age time.Duration, stale bool) func(context.Context, http.Header, peer.CallOptions) (*http.Response, error) {
	return func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
		resp, err := content([]byte(body), len(body))(ctx, h, c)
		peer.SetAge(resp.Header, age, stale)
		peer.SetStored(resp.Header)
		return resp, err
	}
}

func TestAsk(t *testing.T) {
	r := newReplica(t, "b", "self", "c", "d", "e")
	r.does["b"] = status(http.StatusServiceUnavailable, "UNAVAILABLE")
	r.does["d"] = says("manifest", time.Second, true)
	a, err := r.Get(t.Context(), tag, "x/y")
	if err != nil || string(a.Body) != "manifest" || a.Age != time.Second || !a.Stale || !a.Known {
		t.Fatalf("%+v, %v", a, err)
	}
	if seen := r.seen(); seen != "b, c, d" {
		t.Errorf("asked %s", seen)
	}
	r.does["d"] = nil
	if _, err := r.Get(t.Context(), tag, ""); !errors.Is(err, manifest.ErrUnknownToPeers) {
		t.Errorf("%v", err)
	}
	r.seen()
	r.does["b"], r.does["c"] = status(http.StatusNoContent, ""), says("manifest", 0, false)
	if a, err := r.Get(t.Context(), tag, ""); err != nil || string(a.Body) != "manifest" || r.seen() != "b, c" {
		t.Errorf("after a status that is not an answer: %+v, %v", a, err)
	}
	r.does["b"] = status(http.StatusNotFound, "MANIFEST_UNKNOWN")
	if a, err := r.Get(t.Context(), tag, ""); err != nil || a.Status != 404 || a.Code != "MANIFEST_UNKNOWN" || a.Age != time.Second || r.seen() != "b" {
		t.Errorf("%+v, %v", a, err)
	}
	full := errors.New("full")
	r.does["b"] = func(context.Context, http.Header, peer.CallOptions) (*http.Response, error) { return nil, full }
	if _, err := r.Get(t.Context(), tag, ""); !errors.Is(err, full) || r.seen() != "b" {
		t.Errorf("without room: %v", err)
	}
}

// getter is this replica's upstream.
type getter func() (*manifest.Answer, error)

func (a getter) Get(context.Context, route.Request, string) (*manifest.Answer, error) { return a() }

// TestAskStored checks that stored content is requested before the upstream for digests, and after a failure of the
// upstream for tags.
func TestAskStored(t *testing.T) {
	r := newReplica(t, "self", "b", "c", "d")
	r.does["c"] = says("stored", time.Minute, false)
	up := getter(func() (*manifest.Answer, error) {
		return &manifest.Answer{Status: http.StatusOK, Body: []byte("fresh")}, nil
	})
	down := getter(func() (*manifest.Answer, error) { return nil, errors.New("down") })
	for _, test := range []struct {
		q           route.Request
		next        manifest.Getter
		body, asked string
		stale       bool
	}{
		{byDigest, up, "stored", "b!, c!", false},
		{tag, up, "fresh", "", false},
		{tag, down, "stored", "b!, c!", true},
		{route.Request{Kind: route.Tags, Upstream: "one.example", Repository: "a"}, down, "", "", false},
	} {
		a, err := r.StoredGetter(test.next).Get(t.Context(), test.q, "")
		if asked := r.seen(); asked != test.asked {
			t.Errorf("%s: asked %q", test.q.Path(), asked)
		}
		if test.body == "" {
			if err == nil {
				t.Errorf("%s: %+v", test.q.Path(), a)
			}
			continue
		}
		if err != nil || !bytes.Equal(a.Body, []byte(test.body)) || a.Stale != test.stale {
			t.Errorf("%s: %+v, %v", test.q.Path(), a, err)
		}
	}
}

// TestWrongManifest checks that a wrong manifest from a member is ignored, and that the member is not asked for it
// again.
func TestWrongManifest(t *testing.T) {
	right := byDigest
	right.Digest = digest.FromString("right")
	up := getter(func() (*manifest.Answer, error) {
		return &manifest.Answer{Status: http.StatusOK, Body: []byte("fresh")}, nil
	})
	for _, q := range []route.Request{right, tag} {
		r := newReplica(t, "b", "c", "self")
		r.does["b"] = func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
			resp, err := says("wrong", 0, false)(ctx, h, c)
			resp.Header.Set("Docker-Content-Digest", right.Digest.String())
			return resp, err
		}
		r.does["c"] = says("right", 0, false)
		for i, asked := range []string{"b, c", "c"} {
			if a, err := r.Get(t.Context(), q, ""); err != nil || string(a.Body) != "right" || r.seen() != asked {
				t.Errorf("%s, time %d: %+v, %v", q.Path(), i, a, err)
			}
		}
	}
	r := newReplica(t, "self", "b", "c")
	r.does["b"] = says("wrong", 0, false)
	if a, err := r.StoredGetter(up).Get(t.Context(), right, ""); err != nil || string(a.Body) != "fresh" {
		t.Errorf("stored: %+v, %v", a, err)
	}
}

func TestURI(t *testing.T) {
	list := route.Request{Kind: route.Tags, Upstream: "one.example:5000", Repository: "a", Query: "last=b&n=1"}
	for want, q := range map[string]route.Request{
		"/v2/a/manifests/v1?ns=one.example": tag, "/v2/a/tags/list?last=b&n=1&ns=one.example:5000": list,
	} {
		if got := URI(q); got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
}

func TestDenylistIsLimited(t *testing.T) {
	var w denylist
	for i := range 3 * maxDenied {
		w.add("key", string(rune(i)))
	}
	if len(w.until) > maxDenied {
		t.Errorf("%d", len(w.until))
	}
	if !w.has("key", string(rune(3*maxDenied-1))) || w.has("other", string(rune(3*maxDenied-1))) {
		t.Error("the last one is not known, or everywhere")
	}
}
