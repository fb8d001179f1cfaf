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

	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestHeir returns the next owner, whatever it is doing, since it says so itself.
func TestHeir(t *testing.T) {
	r := newReplica(t, "a", "self", "b", "c")
	r.leave["a"] = true
	for want, others := range map[string]map[string]bool{
		"a": nil, "b": {"a": true}, "c": {"a": true, "b": true}, "": {"a": true, "b": true, "c": true},
	} {
		if got := r.Heir(r.request(), others); got != want {
			t.Errorf("without %v: %q", others, got)
		}
	}
	r.set("a", peer.Out)
	if got := r.Heir(r.request(), nil); got != "b" {
		t.Errorf("with the first one out: %q", got)
	}
}

// TestCopyBlob copies a blob from one member's store. It never asks another member or the upstream.
func TestCopyBlob(t *testing.T) {
	type answer = func(context.Context, http.Header, peer.CallOptions) (*http.Response, error)
	const size = 1 << 20
	for name, test := range map[string]struct {
		does func(b []byte) answer
		size int64 // in the offer
		want bool
		deny bool
	}{
		"whole": {does: func(b []byte) answer { return content(b, len(b)) }, size: size, want: true},
		"wrong bytes": {does: func(b []byte) answer {
			b = bytes.Clone(b)
			b[10] ^= 1
			return content(b, len(b))
		}, size: size, deny: true},
		"another size":     {does: func(b []byte) answer { return content(b, len(b)) }, size: 1000},
		"cut":              {does: func(b []byte) answer { return content(b, len(b)/2) }, size: size},
		"no longer stored": {does: func([]byte) answer { return status(http.StatusNotFound, "BLOB_UNKNOWN") }, size: size},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplica(t, "self", "a", "b")
			r.health.was.Store(true) // a member that learns this would ask the upstream
			r.does["a"] = func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
				if c.UpstreamDown {
					t.Error("the member is asked to check the upstream")
				}
				return test.does(r.blob)(ctx, h, c)
			}
			if r.Holds(r.request(), true) {
				t.Error("it is already stored")
			}
			err := r.CopyBlob(t.Context(), "a", r.request(), test.size, time.Now().Add(-time.Hour), true)
			if (err == nil) != test.want || r.Holds(r.request(), true) != test.want {
				t.Errorf("%v, stored: %v", err, r.Holds(r.request(), true))
			}
			if asked := r.seen(); asked != "a!" || r.own != 0 {
				t.Errorf("asked %s, %d fetches", asked, r.own)
			}
			again := r.CopyBlob(t.Context(), "a", r.request(), test.size, time.Now(), true)
			if denied := errors.Is(again, errDenied); denied != test.deny {
				t.Errorf("again: %v", again)
			}
		})
	}
}

// keep stores a blob of this size.
func (r *replica) keep(size int) route.Request {
	r.t.Helper()
	return r.keepBytes(testutil.RandomBytes(size))
}

// keepBytes keeps a blob with this content.
func (r *replica) keepBytes(b []byte) route.Request {
	r.t.Helper()
	q := r.request()
	q.Digest = digest.FromBytes(b)
	g := r.part.Grow(q.Digest, int64(len(b)))
	defer g.Close()
	if _, err := g.Write(b); err != nil {
		r.t.Fatal(err)
	}
	if err := g.Keep(r.part, q.Repository); err != nil {
		r.t.Fatal(err)
	}
	return q
}

// fillUp fills the store.
func (r *replica) fillUp() {
	r.t.Helper()
	for r.part.HasRoom(1<<20, time.Time{}, false) {
		r.keep(1 << 20)
	}
}

// TestCopyBlobIntoFullStore copies a blob only if the blobs to evict were used earlier.
func TestCopyBlobIntoFullStore(t *testing.T) {
	r := newReplica(t, "self", "a")
	r.does["a"] = content(r.blob, len(r.blob))
	r.fillUp()
	before := len(r.part.Held())
	if err := r.CopyBlob(t.Context(), "a", r.request(), 1<<20, time.Now().Add(-time.Hour), true); !errors.Is(err, ErrNoRoom) {
		t.Errorf("a blob that was used earlier: %v", err)
	}
	if n := len(r.part.Held()); n != before || r.seen() != "" {
		t.Errorf("%d blobs of %d are left", n, before)
	}
	if err := r.CopyBlob(t.Context(), "a", r.request(), 1<<20, time.Now(), true); err != nil || !r.Holds(r.request(), true) {
		t.Errorf("a blob that was used later: %v", err)
	}
}

// TestSoleCopies evicts a copy first, although it was used last, if the member keeps the blob. If it does not, the blob counts as
// any other, even if it was a copy before.
func TestSoleCopies(t *testing.T) {
	for name, test := range map[string]struct{ copied, held, evicted bool }{
		"the member keeps it":          {false, false, true},
		"the member does not":          {true, true, false},
		"another member keeps it, too": {true, false, false},
		"a copy becomes the only one":  {false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplica(t, "a", "self")
			r.does["a"] = content(r.blob, len(r.blob))
			if err := r.CopyBlob(t.Context(), "a", r.request(), 1<<20, time.Now(), test.copied); err != nil {
				t.Fatal(err)
			}
			other := r.request()
			other.Repository = "b" // repositories share blobs
			if !r.Holds(other, test.held) {
				t.Fatal("not stored")
			}
			r.fillUp()
			r.part.Has("a", r.request().Digest) // it is used
			r.keep(1 << 20)
			if evicted := !r.Holds(r.request(), false); evicted != test.evicted {
				t.Errorf("evicted: %v", evicted)
			}
		})
	}
}

// TestCopyOfKeptBlob copies a blob that the member keeps only into free room, or instead of other copies: evicting a blob that
// no other replica may have would cost a fetch.
func TestCopyOfKeptBlob(t *testing.T) {
	r := newReplica(t, "self", "a")
	r.does["a"] = content(r.blob, len(r.blob))
	r.fillUp()
	before := r.part.Held()
	if err := r.CopyBlob(t.Context(), "a", r.request(), 1<<20, time.Now(), false); !errors.Is(err, ErrNoRoom) {
		t.Errorf("instead of other content: %v", err)
	}
	if n := len(r.part.Held()); n != len(before) || r.seen() != "" {
		t.Errorf("%d blobs of %d are left", n, len(before))
	}
	r.part.SetRelay(before[0].Digest, true)
	r.part.SetRelay(before[1].Digest, true)
	if err := r.CopyBlob(t.Context(), "a", r.request(), 1<<20, time.Now(), false); err != nil || !r.Holds(r.request(), false) {
		t.Errorf("instead of copies: %v", err)
	}
}

// TestUseDuringCopy has a client get a blob while it is copied. Its last use is that of the client.
func TestUseDuringCopy(t *testing.T) {
	r := newReplica(t, "self", "a")
	send := content(r.blob, len(r.blob))
	r.does["a"] = func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
		r.keepBytes(r.blob)
		return send(ctx, h, c)
	}
	if err := r.CopyBlob(t.Context(), "a", r.request(), int64(len(r.blob)), time.Now().Add(-time.Hour), true); err != nil {
		t.Fatal(err)
	}
	if held := r.part.Held(); len(held) != 1 || time.Since(held[0].Used) > time.Minute {
		t.Errorf("%+v", held)
	}
}
