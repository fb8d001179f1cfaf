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

// get sends a client request to this replica's own handler.
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

// TestStoredElsewhere checks that other replicas are asked before the upstream.
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
			if seen := r.seen(); seen != "b!, c!" && seen != "c!" { // the first response cancels the other request
				t.Errorf("asked %s", seen)
			}
		})
	}
}

// TestStoredIsInterrupted checks that the upstream provides the rest of an interrupted transfer.
func TestStoredIsInterrupted(t *testing.T) {
	r := newReplica(t, "self", "b")
	r.does["b"] = content(r.blob, 1000)
	if code, body := r.get(); code != 200 || !bytes.Equal(body, r.blob) || r.own != 1 {
		t.Errorf("%d, %d bytes, %d own fetches", code, len(body), r.own)
	}
}

// TestStoredStops checks that the upstream provides the rest if a member is alive, but stops sending, for example
// because its disk hangs.
func TestStoredStops(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
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

// hangs is a body that blocks until its request is canceled.
type hangs struct{ ctx context.Context }

func (h hangs) Read([]byte) (int, error) {
	select {
	case <-h.ctx.Done():
		return 0, context.Cause(h.ctx)
	case <-time.After(patienceOfTests):
		return 0, io.ErrNoProgress
	}
}

// TestStoredIsWrong checks that a client that has received wrong bytes is cut, and the next one is served.
func TestStoredIsWrong(t *testing.T) {
	r := newReplica(t, "self", "b")
	bad := bytes.Clone(r.blob)
	bad[1000] ^= 1
	r.does["b"] = content(bad, 1<<20)
	// The client is cut, or has received nothing yet and gets the next fill.
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
