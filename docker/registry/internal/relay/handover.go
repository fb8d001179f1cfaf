// SPDX-License-Identifier: GPL-3.0-or-later

package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/manifest"
	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

// manifestPatience is how long to wait for a stored manifest in a handover.
const manifestPatience = 3 * time.Second

// ErrNoRoom is returned by CopyBlob if only blobs that are worth more could make room.
var ErrNoRoom = errors.New("the blobs that would have to be evicted were used more recently, or are no copies")

// Heir returns the member that owns a request's key after this replica has left, apart from some other members, or "".
func (r *Relay) Heir(q route.Request, others map[string]bool) string {
	for _, rank := range r.opts.Peers.Rank(r.Key(q)) {
		if !rank.Self && !others[rank.Name] {
			return rank.Name
		}
	}
	return ""
}

// Holds reports whether this replica has stored a blob, without marking it as used. With sole, no other replica has it
// any more, so that it is not evicted before other blobs.
func (r *Relay) Holds(q route.Request, sole bool) bool {
	repository := q.Repository
	if r.opts.Share {
		repository = ""
	}
	if !r.opts.Store.Holds(repository, q.Digest) {
		return false
	}
	if sole {
		r.opts.Store.SetRelay(q.Digest, false)
	}
	return true
}

// CopyBlob copies a blob from a member's store. Size and last use are those at the member. Unless sole is set, the member
// keeps the blob: the copy makes room only at the expense of other such copies, and is evicted first.
func (r *Relay) CopyBlob(ctx context.Context, name string, q route.Request, size int64, used time.Time, sole bool) error {
	if r.denied.has(r.Key(q), name) {
		return errDenied
	}
	g := r.growWithin(q, size, used, sole)
	if g == nil {
		return ErrNoRoom
	}
	fresh, err := r.copyStored(ctx, name, q, g, sole)
	g.Close()
	if err == nil && fresh {
		r.opts.Store.SetUsed(q.Digest, used)
	}
	return err
}

// growWithin returns a Growing with reserved room, or nil if there is none.
func (r *Relay) growWithin(q route.Request, size int64, used time.Time, sole bool) *store.Growing {
	r.room.Lock()
	defer r.room.Unlock()
	if !r.opts.Store.HasRoom(size, used, !sole) {
		return nil
	}
	return r.opts.Store.Grow(q.Digest, size)
}

// copyStored copies a blob from a member's store into a Growing, and stores it. It also reports whether the store did not
// have the blob by then.
func (r *Relay) copyStored(ctx context.Context, name string, q route.Request, g *store.Growing, sole bool) (fresh bool, err error) {
	defer context.AfterFunc(ctx, func() { g.Finish(context.Cause(ctx)) })()
	a, err := newExchange(ctx, r.opts.Peers, name, URI(q), nil, peer.CallOptions{StoreOnly: true})
	if err != nil {
		return false, err
	}
	defer a.Close()
	if a.StatusCode != http.StatusOK {
		return false, errorOf(a.Response)
	}
	a.silent = storedSilence
	err = r.copyBody(ctx, a, g)
	switch state, cause := g.State(); {
	case isWrong(cause):
		r.denySenders(q, []string{name}, cause)
		return false, cause
	case state != store.Complete:
		return false, errors.Join(err, cause)
	}
	keep := g.Keep
	if !sole {
		keep = g.KeepRelay
	}
	fresh = !r.opts.Store.Holds("", q.Digest) // a client may have got it in the meantime
	return fresh, keep(r.opts.Store, q.Repository)
}

// GetStored returns a manifest or tag from a member's store.
func (r *Relay) GetStored(ctx context.Context, name string, q route.Request) (*manifest.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestPatience)
	defer cancel()
	a, err := newExchange(ctx, r.opts.Peers, name, URI(q), nil, peer.CallOptions{StoreOnly: true, Reserve: manifest.Reserve})
	if err != nil {
		return nil, err
	}
	defer a.Close()
	return r.readAnswer(a, q)
}

var errDenied = fmt.Errorf("the member has sent wrong bytes within %v", denyTime)
