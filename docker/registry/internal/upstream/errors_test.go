// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

var nowhere = digest.FromString("nowhere")

// all has a request of every kind for missing content, by the error code of a 404.
var all = map[string]route.Request{
	"MANIFEST_UNKNOWN": tag("nothing"), "MANIFEST_UNKNOWN ": byDigest(nowhere), "NAME_UNKNOWN": tags(""), "NAME_UNKNOWN ": tags("n=2"),
	"UNSUPPORTED": referrers(nowhere, ""), "BLOB_UNKNOWN": blob(nowhere),
}

// ask sends any request, and returns its error.
func (s *setup) ask(t testing.TB, r route.Request) error {
	t.Helper()
	var err error
	if r.Kind == route.Blob {
		_, err = s.size(ctx, r)
		var stat, fetch *Error
		f := s.fetch(t, s.Upstream, r.Digest, -1)
		if f.written > 0 {
			t.Errorf("%d bytes of an error", f.written)
		}
		if errors.As(err, &stat) && errors.As(f.err, &fetch) {
			if stat.Detail, fetch.Detail = "", ""; *stat != *fetch { // a HEAD has no error message
				t.Errorf("stat says %v, fetch %v", stat, fetch)
			}
		}
		return err
	}
	_, err = s.Get(ctx, r, "")
	return err
}

// TestAnswers checks how the upstream's statuses are translated for clients.
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
			if e.Upstream != test.upstream || e.Upstream == 0 || strings.Contains(e.Message, "of the upstream") {
				t.Errorf("%d: %#v", test.upstream, e)
			}
		}
	}
}

// TestRetryAfter checks that Retry-After is that of the upstream, limited to a minute, or 2 s.
func TestRetryAfter(t *testing.T) {
	s := start(t, patient, nil)
	for given, want := range map[string]time.Duration{
		"17": 17, "Wed, 21 Oct 2026 07:28:00 GMT": 2, "-1": 2, "": 2, "60000": 60, "99999999999": 60, "99999999999999999999": 60,
	} {
		s.g.misbehave(func(w http.ResponseWriter, _ *http.Request) bool { refuse(w, 429, "Retry-After", given); return true })
		for _, r := range all {
			if e := isError(t, given, s.ask(t, r), 429, "TOOMANYREQUESTS"); e.RetryAfter != want*time.Second {
				t.Errorf("%q: %s", given, e.RetryAfter)
			}
		}
	}
}

// TestError checks what other packages read from an Error.
func TestError(t *testing.T) {
	var err error = newError(route.Blob, &requestError{status: 429, after: 1500 * time.Millisecond, message: "theirs"})
	var refusal *route.StatusError
	if !errors.As(err, &refusal) || refusal.Status != 429 || refusal.Code != "TOOMANYREQUESTS" || !strings.Contains(refusal.Message, "quota") {
		t.Errorf("%+v", refusal)
	}
	var e *Error
	if !errors.As(err, &e) || e.Header().Get("Retry-After") != "2" || e.Timeout() || !strings.Contains(e.Error(), "theirs") {
		t.Errorf("%#v", e)
	}
	if e := newError(route.Blob, &requestError{timeout: true}); !e.Timeout() || e.Upstream != 0 {
		t.Errorf("%#v", e)
	}
	if e := newError(route.Blob, &requestError{status: 404, after: time.Second}); len(e.Header()) > 0 {
		t.Errorf("%v", e.Header())
	}
}
