// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"context"
	"errors"
	"net/http"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
)

// ErrNext is what a Fetcher returns to have Options.Next serve the clients that have received nothing of the blob.
var ErrNext = errors.New("it is served by another handler")

// ErrAgain is what a Fetcher wraps if it brought wrong bytes and would not bring them again. Clients that have received none of
// them wait for another fill.
var ErrAgain = errors.New("another fill is needed")

type fillKey struct{}

// MarkStored marks the fill of a Fetch's context as coming from the store of another replica.
func MarkStored(ctx context.Context) {
	if f, ok := ctx.Value(fillKey{}).(*fill); ok {
		f.stored.Store(true)
	}
}

// ServePeer is Serve for another replica. It waits for a first byte as long as the fill goes on, since that replica decides how
// long its clients wait. The rest of a body that a failed fill has cut is refused, see RelayParameter.
func (h *Handler) ServePeer(w http.ResponseWriter, r *http.Request, q route.Request) {
	if !h.refuseBroken(w, r, q) && !h.ServeStored(w, r, q) {
		h.serveFills(r.Context(), w, r, q)
	}
}

// ServeStored answers another replica if the store has the blob, and reports whether it has.
func (h *Handler) ServeStored(w http.ResponseWriter, r *http.Request, q route.Request) bool {
	peer.SetStored(w.Header())
	if h.serveStored(w, r, q) {
		return true
	}
	peer.ClearStored(w.Header())
	return false
}

// setAge tells another replica how old an error is, so that a hop does not make it last longer.
func setAge(header http.Header, r *http.Request, err error) {
	if _, isHop := peer.FromContext(r.Context()); isHop {
		peer.SetAge(header, errorAge(err), false)
	}
}

// setStored tells another replica that the blob comes from a store.
func setStored(header http.Header, r *http.Request, f *fill) {
	if _, isHop := peer.FromContext(r.Context()); isHop && f.stored.Load() {
		peer.SetStored(header)
	}
}

// othersMayHave reports whether an error says nothing about the blob, so that other replicas may have it.
func othersMayHave(err error) bool {
	var refusal *route.StatusError
	switch {
	case errors.Is(err, errWaitTimeout), errors.Is(err, errClosed), errors.Is(err, context.Canceled):
		return false
	case errors.As(err, &refusal):
		return refusal.Status >= http.StatusInternalServerError
	}
	return true
}

// FailedRecently reports whether a fill of a request has failed in the last two seconds, so that no new one begins.
func (h *Handler) FailedRecently(q route.Request) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failures.get(q, time.Now()) != nil
}
