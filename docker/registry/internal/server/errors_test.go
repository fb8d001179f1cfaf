// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestWriteError(t *testing.T) {
	for _, test := range []struct {
		status           int
		code, want       string
		retry, wantRetry string
	}{
		{404, "BLOB_UNKNOWN", "BLOB_UNKNOWN", "", ""},
		{401, "", "UNAUTHORIZED", "", ""},
		{403, "", "DENIED", "", ""},
		{405, "", "UNSUPPORTED", "", ""},
		{418, "", "UNKNOWN", "", ""},
		{429, "", "TOOMANYREQUESTS", "7", "7"},
		{500, "", "UNKNOWN", "", ""},
		{502, "", "UNAVAILABLE", "", "2"},
		{503, "", "UNAVAILABLE", "9", "9"},
		{504, "", "UNAVAILABLE", "", "2"},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			w := httptest.NewRecorder()
			for _, name := range []string{"Content-Range", "ETag", "Docker-Content-Digest", "Content-Length"} {
				w.Header().Set(name, "17")
			}
			if test.retry != "" {
				w.Header().Set("Retry-After", test.retry)
			}
			WriteError(w, httptest.NewRequest(method, "/", nil), test.status, test.code, "a \"message\" \xff\n")
			h := w.Header()
			if w.Code != test.status || h.Get("Retry-After") != test.wantRetry || h.Get("ETag") != "" || h.Get("Content-Range") != "" ||
				h.Get("Docker-Content-Digest") != "" || h.Get("Content-Length") == "17" {
				t.Errorf("%d: got %d, %v", test.status, w.Code, h)
			}
			if method == "HEAD" {
				if w.Body.Len() != 0 {
					t.Errorf("HEAD with body %q", w.Body)
				}
			} else if got := code(t, w.Body.String()); got != test.want || strings.Count(w.Body.String(), "\n") != 1 {
				t.Errorf("got %s, want %s", got, test.want)
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for after, want := range map[time.Duration]string{-time.Second: "1", 0: "1", time.Millisecond: "1", time.Second: "1", 1001 * time.Millisecond: "2"} {
		w := httptest.NewRecorder()
		setRetryAfter(w.Header(), after)
		if got := w.Header().Get("Retry-After"); got != want {
			t.Errorf("%v: got %s, want %s", after, got, want)
		}
	}
}
