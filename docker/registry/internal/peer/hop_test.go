// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"net/http"
	"strings"
	"testing"
)

var (
	someNonce = strings.Repeat("0f", nonceLimit/2)
	someSum   = strings.Repeat("a1", sumLimit/2)
)

func someHop() hop {
	return hop{version: "1", from: "a", to: "b", time: 1700000000000, nonce: someNonce, mac: someSum}
}

func TestHopHeader(t *testing.T) {
	h := someHop()
	want := "v=1, from=a, to=b, time=1700000000000, nonce=" + someNonce + ", mac=" + someSum
	if h.String() != want {
		t.Errorf("%s, not %s", h, want)
	}
	for i := range 4 {
		h.store, h.out = i%2 == 1, i > 1
		if got, reason := parseHop(h.String(), "1"); got != h || reason != "" {
			t.Errorf("%v: %v %s", h, got, reason)
		}
	}
}

func TestHopOfAnotherVersion(t *testing.T) {
	got, reason := parseHop("v=2, nonce="+someNonce+", new=field", "1")
	if reason != Version || got.version != "2" || got.nonce != someNonce {
		t.Errorf("%v %s", got, reason)
	}
}

func TestMalformedHops(t *testing.T) {
	good := someHop().String()
	for _, text := range []string{
		"", " ", "v=1", good + ", mac=" + someSum, good + ", x=y", good + ",", good + " ", " " + good, strings.ToUpper(good),
		strings.ReplaceAll(good, ", ", ","), strings.Replace(good, "from=a, ", "", 1), strings.Replace(good, "time=1", "time=+1", 1),
		strings.Replace(good, "time=1", "time=-1", 1), strings.Replace(good, "time=1", "time=01", 1),
		strings.Replace(good, "time=1", "time=99999999999", 1), strings.Replace(good, "to=b", "to=B", 1),
		strings.Replace(good, "to=b", "to="+strings.Repeat("b", nameLimit+1), 1), strings.Replace(good, "mac=a", "mac=g", 1),
		strings.Replace(good, "nonce=0", "nonce=", 1), strings.Replace(good, "v=1", "v=01", 1), strings.Replace(good, "v=1", "v=0", 1),
		strings.Replace(good, "v=1", "v=65536", 1), good + ", only=disk", good + ", upstream=in", good + ", only=", "nonce=" + someNonce + ", v=2",
		"v=2, nonce=" + someNonce + ", long=" + strings.Repeat("x", headerLimit),
	} {
		if got, reason := parseHop(text, "1"); reason != Malformed {
			t.Errorf("%q is taken: %v %s", text, got, reason)
		}
	}
}

// TestMACCoversEverything changes each part of a request, and checks that the MAC is not valid any more.
func TestMACCoversEverything(t *testing.T) {
	header := func() http.Header { return http.Header{"Accept": {"x", "y"}, "Range": {"bytes=0-1"}} }
	base := computeMAC(testSecret, someHop().signedParts("GET", "/v2/", header())...)
	seen := map[string]string{base: "nothing"}
	check := func(what, mac string) {
		if other, twice := seen[mac]; twice {
			t.Errorf("%s and %s have the same MAC", what, other)
		}
		seen[mac] = what
	}
	for what, change := range map[string]func(*hop){
		"version": func(h *hop) { h.version = "2" }, "from": func(h *hop) { h.from = "c" }, "to": func(h *hop) { h.to = "c" },
		"time": func(h *hop) { h.time++ }, "nonce": func(h *hop) { h.nonce = someSum[:32] }, "store": func(h *hop) { h.store = true },
		"out": func(h *hop) { h.out = true },
	} {
		h := someHop()
		change(&h)
		check(what, computeMAC(testSecret, h.signedParts("GET", "/v2/", header())...))
	}
	for what, change := range map[string]func(http.Header){
		"no range": func(h http.Header) { h.Del("Range") }, "range": func(h http.Header) { h.Set("Range", "bytes=0-2") },
		"accept": func(h http.Header) { h["Accept"] = []string{"x"} }, "borders": func(h http.Header) { h["Accept"] = []string{"x1:y"} },
		"moved": func(h http.Header) { h["Accept"], h["Range"] = h["Range"], h["Accept"] },
	} {
		changed := header()
		change(changed)
		check(what, computeMAC(testSecret, someHop().signedParts("GET", "/v2/", changed)...))
	}
	check("method", computeMAC(testSecret, someHop().signedParts("HEAD", "/v2/", header())...))
	check("URI", computeMAC(testSecret, someHop().signedParts("GET", "/v2/?", header())...))
	check("key", computeMAC(testSecret+"0", someHop().signedParts("GET", "/v2/", header())...))
}

func FuzzParseHop(f *testing.F) {
	f.Add(someHop().String())
	f.Add("v=2, nonce=" + someNonce)
	f.Add(strings.Replace(someHop().String(), "mac", "only=store, upstream=out, mac", 1))
	f.Fuzz(func(t *testing.T, text string) {
		h, reason := parseHop(text, "1")
		switch reason {
		case "":
			again, reason := parseHop(h.String(), "1")
			if again != h || reason != "" || len(h.from) > nameLimit || len(h.to) > nameLimit {
				t.Errorf("%q: %v, then %v %s", text, h, again, reason)
			}
		case Version:
			if !isHex(h.nonce, nonceLimit) || !isVersion(h.version) || h.version == "1" {
				t.Errorf("%q: %v", text, h)
			}
		case Malformed:
			if h != (hop{}) {
				t.Errorf("%q: malformed, but %v", text, h)
			}
		default:
			t.Errorf("%q: %s", text, reason)
		}
	})
}
