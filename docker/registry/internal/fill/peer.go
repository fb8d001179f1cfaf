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

// ErrNext is returned by a Fetcher to let Options.Next serve the clients that have not received any bytes yet.
var ErrNext = errors.New("served by another handler")

// ErrAgain is wrapped by the error of a Fetcher that received wrong bytes and would not receive them again. Clients
// that have not received any of them wait for another fill.
var ErrAgain = errors.New("another fill is needed")

type fillKey struct{}

// MarkStored marks the fill in a Fetcher's context as coming from another replica's store.
func MarkStored(ctx context.Context) {
	if f, ok := ctx.Value(fillKey{}).(*fill); ok {
		f.stored.Store(true)
	}
}

// ServePeer is Serve for another replica. It waits for the first byte without a time limit, since the other replica
// decides how long its clients wait. It refuses to send the rest of a body that a failed fill has cut (see
// RelayParameter).
func (h *Handler) ServePeer(w http.ResponseWriter, r *http.Request, q route.Request) {
	if !h.refuseBroken(w, r, q) && !h.ServeStored(w, r, q) {
		h.serveFills(r.Context(), w, r, q)
	}
}

// ServeStored answers another replica if the blob is in the store, and reports whether it is.
func (h *Handler) ServeStored(w http.ResponseWriter, r *http.Request, q route.Request) bool {
	peer.SetStored(w.Header())
	if h.serveStored(w, r, q) {
		return true
	}
	peer.ClearStored(w.Header())
	return false
}

// setAge tells another replica the age of an error, so that a hop does not prolong how long it is shared.
func setAge(header http.Header, r *http.Request, err error) {
	if _, isHop := peer.FromContext(r.Context()); isHop {
		peer.SetAge(header, errorAge(err), false)
	}
}

// setStored tells another replica that the blob comes from a replica's store.
func setStored(header http.Header, r *http.Request, f *fill) {
	if _, isHop := peer.FromContext(r.Context()); isHop && f.stored.Load() {
		peer.SetStored(header)
	}
}

// othersMayHave reports whether other replicas may have the blob despite the error.
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

// FailedRecently reports whether a fill of the request has failed within the last two seconds, so that no new fill
// starts.
func (h *Handler) FailedRecently(q route.Request) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failures.get(q, time.Now()) != nil
}
