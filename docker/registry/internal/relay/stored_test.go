// SPDX-License-Identifier: GPL-3.0-or-later

package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/peer"
)

// get has a client ask this replica's own handler.
func (r *replica) get() (status int, body []byte) {
	w := httptest.NewRecorder()
	func() {
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				panic(p)
			}
		}()
		r.Relay.own.Serve(w, httptest.NewRequestWithContext(r.t.Context(), http.MethodGet, "/", nil), r.request())
	}()
	return w.Code, w.Body.Bytes()
}

// TestStoredElsewhere asks others before the upstream.
func TestStoredElsewhere(t *testing.T) {
	none := status(http.StatusNotFound, "BLOB_UNKNOWN")
	for name, test := range map[string]struct {
		b, c func(context.Context, http.Header, peer.CallOptions) (*http.Response, error)
		own  int
	}{
		"the second has it": {none, nil, 0},
		"nobody has it":     {none, none, 1},
		"nobody answers":    {waits, waits, 1},
		"one is silent":     {waits, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplica(t, "self", "b", "c", "d")
			r.does["b"], r.does["c"] = test.b, test.c
			if test.c == nil {
				r.does["c"] = content(r.blob, 1<<20)
			}
			begun := time.Now()
			if code, body := r.get(); code != 200 || !bytes.Equal(body, r.blob) || r.own != test.own {
				t.Errorf("%d, %d bytes, %d own fetches", code, len(body), r.own)
			}
			if took := time.Since(begun); took > 5*storedPatience {
				t.Errorf("after %v", took)
			}
			if seen := r.seen(); seen != "b!, c!" && seen != "c!" { // whoever is first ends the other
				t.Errorf("asked %s", seen)
			}
		})
	}
}

// TestStoredBreaksOff goes on with the upstream.
func TestStoredBreaksOff(t *testing.T) {
	r := newReplica(t, "self", "b")
	r.does["b"] = content(r.blob, 1000)
	if code, body := r.get(); code != 200 || !bytes.Equal(body, r.blob) || r.own != 1 {
		t.Errorf("%d, %d bytes, %d own fetches", code, len(body), r.own)
	}
}

// TestStoredStops goes on with the upstream when a member that lives does not send on, as one whose disk hangs.
func TestStoredStops(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	r := newReplica(t, "self", "b")
	r.does["b"] = func(ctx context.Context, _ http.Header, _ peer.CallOptions) (*http.Response, error) {
		body := io.MultiReader(bytes.NewReader(r.blob[:1000]), hangs{ctx})
		return &http.Response{StatusCode: http.StatusOK, ContentLength: int64(len(r.blob)), Body: io.NopCloser(body)}, nil
	}
	begun := time.Now()
	if code, body := r.get(); code != 200 || !bytes.Equal(body, r.blob) || r.own != 1 {
		t.Errorf("%d, %d bytes, %d own fetches", code, len(body), r.own)
	}
	if took := time.Since(begun); took < storedSilence || took > 3*storedSilence {
		t.Errorf("after %v", took)
	}
}

// hangs is a body of which nothing comes until its request ends.
type hangs struct{ ctx context.Context }

func (h hangs) Read([]byte) (int, error) {
	select {
	case <-h.ctx.Done():
		return 0, context.Cause(h.ctx)
	case <-time.After(patienceOfTests):
		return 0, io.ErrNoProgress
	}
}

// TestStoredIsWrong cuts the client that has got wrong bytes, and serves the next one.
func TestStoredIsWrong(t *testing.T) {
	r := newReplica(t, "self", "b")
	bad := bytes.Clone(r.blob)
	bad[1000] ^= 1
	r.does["b"] = content(bad, 1<<20)
	// It is cut, or has got nothing yet and waits for the next.
	if code, body := r.get(); len(body) >= len(r.blob) && !bytes.Equal(body, r.blob) {
		t.Errorf("%d, %d bytes", code, len(body))
	}
	if code, body := r.get(); code != 200 || !bytes.Equal(body, r.blob) || r.own != 1 {
		t.Errorf("%d, %d bytes, %d own fetches", code, len(body), r.own)
	}
	r = newReplica(t, "self", "b")
	r.does["b"] = waits
	r.fails = errors.New("no")
	if code, _ := r.get(); code != http.StatusBadGateway {
		t.Errorf("%d", code)
	}
}
