// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// signedHop returns a request from replica a to replica b. change is called before it is signed.
func signedHop(key string, change func(*hop)) *http.Request {
	r := httptest.NewRequest(http.MethodGet, smallURI, nil)
	h := hop{version: version, from: "a", to: "b", time: time.Now().UnixMilli(), nonce: newNonce()}
	if change != nil {
		change(&h)
	}
	h.mac = computeMAC(key, h.signedParts(r.Method, r.RequestURI, r.Header)...)
	r.Header.Set(hopHeader, h.String())
	return r
}

func TestRefusals(t *testing.T) {
	b := newPeers(t, "b")
	passed := 0
	handler := b.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		passed++
		w.WriteHeader(http.StatusOK)
	}))
	once := signedHop(testSecret, nil)
	altered := func(change func(*http.Request)) *http.Request {
		r := signedHop(testSecret, nil)
		change(r)
		return r
	}
	for _, c := range []struct {
		what   string
		r      *http.Request
		reason Reason
		proof  bool
	}{
		{"good", once, "", true},
		{"again", once, Replayed, true},
		{"no header", httptest.NewRequest(http.MethodGet, smallURI, nil), Missing, false},
		{"two headers", altered(func(r *http.Request) { r.Header.Add(hopHeader, r.Header.Get(hopHeader)) }), Malformed, false},
		{"post", altered(func(r *http.Request) { r.Method = http.MethodPost }), Malformed, false},
		{"body", altered(func(r *http.Request) { r.ContentLength = 1 }), Malformed, false},
		{"other secret", signedHop(testSecret+"0", nil), WrongMAC, false},
		{"URI", altered(func(r *http.Request) { r.RequestURI += "0" }), WrongMAC, false},
		{"range", altered(func(r *http.Request) { r.Header.Set("Range", "bytes=0-") }), WrongMAC, false},
		{"accept", altered(func(r *http.Request) { r.Header.Set("Accept", "x") }), WrongMAC, false},
		{"method", altered(func(r *http.Request) { r.Method = http.MethodHead }), WrongMAC, false},
		{"another member", signedHop(testSecret, func(h *hop) { h.to = "c" }), WrongMember, true},
		{"old", signedHop(testSecret, func(h *hop) { h.time -= window.Milliseconds() + 100 }), Time, true},
		{"from the future", signedHop(testSecret, func(h *hop) { h.time += window.Milliseconds() + 1000 }), Time, true},
		{"nearly old", signedHop(testSecret, func(h *hop) { h.time -= window.Milliseconds() - 5000 }), "", true},
		{"malformed", altered(func(r *http.Request) { r.Header.Set(hopHeader, "v=1") }), Malformed, false},
		{"version", signedHop("unknown", func(h *hop) { h.version = "7" }), Version, true},
	} {
		before, counted := passed, b.Stats().Refusals[c.reason]
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, c.r)
		status := http.StatusUnauthorized
		switch c.reason {
		case "":
			status = http.StatusOK
		case Version:
			status = http.StatusHTTPVersionNotSupported
		default:
			if want := fmt.Sprintf("%q", errorCodes[c.reason]); !strings.Contains(w.Body.String(), want) && c.r.Method != http.MethodHead {
				t.Errorf("%s: %s, without the code %s", c.what, w.Body, want)
			}
		}
		if w.Code != status || (passed > before) != (c.reason == "") || (w.Header().Get(proofHeader) != "") != c.proof {
			t.Errorf("%s: %d, passed on: %v, header %v", c.what, w.Code, passed > before, w.Header())
		}
		if now := b.Stats().Refusals[c.reason]; c.reason != "" && now != counted+1 {
			t.Errorf("%s: counted %d times", c.what, now-counted)
		}
	}
	if len(b.nonces.seconds) > 2 || b.nonces.count != 2 {
		t.Errorf("%d nonces are kept for 2 valid requests", b.nonces.count)
	}
}

// TestNoProofAfterPanic uses a handler that panics before its small answer is complete.
func TestNoProofAfterPanic(t *testing.T) {
	b := newPeers(t, "b")
	w := httptest.NewRecorder()
	defer func() {
		if recover() == nil || w.Header().Get(proofHeader) != "" || w.Body.Len() > 0 {
			t.Errorf("%v %s", w.Header(), w.Body)
		}
	}()
	b.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("half"))
		panic(http.ErrAbortHandler)
	})).ServeHTTP(w, signedHop(testSecret, nil))
}

func TestClientRequestsAreNotHops(t *testing.T) {
	if hop, ok := FromContext(t.Context()); ok {
		t.Errorf("%v", hop)
	}
}

// TestHopFromMemberThatIsOut checks that a member that is out is probed at once when a hop from it arrives.
func TestHopFromMemberThatIsOut(t *testing.T) {
	a := newPeers(t, "a")
	b := newPeers(t, "b", Member{"a", serve(t, a.Handler(small))})
	b.find("a").markOut("test")
	begun := time.Now()
	b.Handler(small).ServeHTTP(httptest.NewRecorder(), signedHop(testSecret, nil))
	testutil.Eventually(t, "it is in", func() bool { return b.Stats().Out == 0 })
	if took := time.Since(begun); took > probeEvery*4/5 {
		t.Errorf("after %v", took)
	}
}
