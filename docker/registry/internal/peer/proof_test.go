// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestProofHeader(t *testing.T) {
	for _, body := range []string{byDigest, someSum} {
		p := proof{"1", body, someSum}
		if got, ok := parseProof(p.String()); !ok || got != p {
			t.Errorf("%v: %v", p, got)
		}
	}
	good := proof{"1", byDigest, someSum}.String()
	for _, text := range []string{
		"", good + ", x=y", good + ", v=1", strings.Replace(good, "digest", "none", 1), strings.Replace(good, "v=1", "v=x", 1), good[1:],
		strings.TrimSuffix(good, "1"), "body=digest, mac=" + someSum,
	} {
		if got, ok := parseProof(text); ok {
			t.Errorf("%q is taken: %v", text, got)
		}
	}
}

func TestProofCoversEverything(t *testing.T) {
	p := proof{version: "1", body: byDigest}
	seen := map[string]string{}
	check := func(what string, parts []string) {
		mac := computeMAC(testSecret, parts...)
		if other, twice := seen[mac]; twice {
			t.Errorf("%s and %s have the same MAC", what, other)
		}
		seen[mac] = what
	}
	check("nothing", p.signedParts("b", someNonce, 200, http.Header{}))
	check("member", p.signedParts("c", someNonce, 200, http.Header{}))
	check("nonce", p.signedParts("b", someSum[:32], 200, http.Header{}))
	check("status", p.signedParts("b", someNonce, 206, http.Header{}))
	check("version", proof{version: "2", body: byDigest}.signedParts("b", someNonce, 200, http.Header{}))
	check("body", proof{version: "1", body: someSum}.signedParts("b", someNonce, 200, http.Header{}))
	for _, name := range signedAnswer {
		if name != http.CanonicalHeaderKey(name) {
			t.Errorf("%s is not how net/http spells it", name)
		}
		check(name, p.signedParts("b", someNonce, 200, http.Header{name: {"1"}}))
	}
}

func TestStreams(t *testing.T) {
	for uri, want := range map[string]bool{
		"/v2/a/blobs/sha256:1": true, "/v2/a/blobs/sha256:1?ns=x": true, "/v2/a/manifests/blobs": false, "/v2/blobs/manifests/1": false,
		"/v2/a?/blobs/x": false, "/v2/blobs/blobs/tags/list": false, "": false, "/": false, "blobs": false,
	} {
		if isStream(uri, 200) != want || isStream(uri, 206) != want || isStream(uri, 404) {
			t.Errorf("%q", uri)
		}
	}
}

func TestAge(t *testing.T) {
	h := http.Header{}
	if age, stale := Age(h); age != 0 || stale {
		t.Error("an age without a header")
	}
	SetAge(h, 1234567*time.Microsecond, true)
	if age, stale := Age(h); age != 1234*time.Millisecond || !stale {
		t.Error(age, stale)
	}
	for _, text := range []string{"x", "-1", "9223372036854775807"} {
		h.Set(ageHeader, text)
		if age, _ := Age(h); age != 0 {
			t.Errorf("%s: %v", text, age)
		}
	}
}

func FuzzParseProof(f *testing.F) {
	f.Add(proof{"1", byDigest, someSum}.String())
	f.Add(proof{"2", someSum, someSum}.String())
	f.Fuzz(func(t *testing.T, text string) {
		p, ok := parseProof(text)
		if again, still := parseProof(p.String()); ok && (!still || again != p) || !ok && p != (proof{}) {
			t.Errorf("%q: %v, then %v", text, p, again)
		}
	})
}
