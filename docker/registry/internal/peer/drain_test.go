// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// TestDrain checks that a draining member is asked only for stored content, and stays in.
func TestDrain(t *testing.T) {
	a, b := pair(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		SetStored(w.Header())
		_, _ = io.WriteString(w, "content")
	}))
	if _, body, err := get(t, a, "b", smallURI); err != nil || body != "content" {
		t.Fatalf("%q, %v", body, err)
	}
	b.Drain()
	for range 2 {
		_, _, err := get(t, a, "b", smallURI)
		if e, ok := errors.AsType[*Error](err); !ok || e.Result != Refused || e.Reason != Draining {
			t.Fatalf("%v", err)
		}
	}
	for _, r := range a.Rank("key") {
		if r.Leaving != (r.Name == "b") {
			t.Errorf("%+v", r)
		}
	}
	resp, err := a.Do(t.Context(), "b", http.MethodGet, smallURI, nil, CallOptions{StoreOnly: true})
	if err != nil || !Stored(resp.Header) {
		t.Errorf("what it has: %v", err)
	}
	if s := a.Stats(); s.Suspect+s.Out != 0 {
		t.Errorf("%+v", s)
	}
	if n := b.Stats().Refusals[Draining]; n != 2 {
		t.Errorf("%d refusals are counted", n)
	}
}

// TestReserve checks that room is reserved before a large answer is read, and that the answer is not read without room.
func TestReserve(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 8<<10)
	a, _ := pair(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := large
		if r.URL.RawQuery == "small" {
			body = "small"
		}
		if r.URL.RawQuery != "pieces" {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		_, _ = io.WriteString(w, body)
	}))
	full := errors.New("full")
	for query, wanted := range map[string]int64{"small": 0, "whole": int64(len(large)), "pieces": int64(len(large))} {
		for _, room := range []error{nil, full} {
			asked := int64(0)
			resp, err := a.Do(t.Context(), "b", http.MethodGet, "/v2/a/tags/list?"+query, nil, CallOptions{Reserve: func(_ context.Context, bytes int64) error {
				asked = bytes
				return room
			}})
			if asked != wanted {
				t.Errorf("%s: reserved %d bytes, want %d", query, asked, wanted)
			}
			if room != nil && wanted > 0 {
				if !errors.Is(err, full) {
					t.Errorf("%s: %v", query, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			if body, _ := io.ReadAll(resp.Body); query != "small" && string(body) != large {
				t.Errorf("%s: %d bytes", query, len(body))
			}
		}
	}
}
