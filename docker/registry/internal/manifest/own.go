// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
)

// ErrUnknownToPeers is returned by a Relay if no other replica knows the answer. Then this replica asks the upstream.
var ErrUnknownToPeers = errors.New("no other replica knows the answer")

var errNotStored = errors.New("the answer could not be stored")

// cacheKey returns the key of a question in the cache, which does not depend on whether other replicas or the upstream
// are asked.
func (q question) cacheKey() question {
	q.relayed, q.own = false, false
	return q
}

// routed returns the question, marked with whom to ask: the other replicas or the upstream. The two have separate
// checks and errors, since a question from another replica must not wait for that replica.
func (u *upstream) routed(q question) question {
	q.relayed = u.relay != nil && !q.own && (q.relayed || !u.owned(q.Request))
	q.own = false
	return q
}

// gateFor returns the gate for a question: that of the other replicas or of the upstream.
func (u *upstream) gateFor(q question) *gate {
	if q.relayed {
		return u.relays
	}
	return u.gate
}

// getterFor returns the Getter for a question: that of the other replicas or of the upstream.
func (u *upstream) getterFor(q question) Getter {
	if q.relayed {
		return u.relay
	}
	return u.getter
}

// ownThenOthers returns the answer to a question. If this replica owns it and its upstream fails, it asks the others.
// It does not ask them about a slow answer. The client waits at most limit for both.
func (h *Handler) ownThenOthers(ctx context.Context, u *upstream, q question, limit time.Duration) (*Answer, Result) {
	begun := time.Now()
	a, result := h.answer(ctx, u, q, limit)
	if result != Failed || u.relay == nil || q.own || a.ownError || a.Status < http.StatusInternalServerError || !u.owned(q.Request) {
		return a, result
	}
	q.relayed = true
	b, relayed := h.answer(ctx, u, q, limit-time.Since(begun))
	if relayed == Failed {
		b.Release()
		return a, result
	}
	a.Release()
	return b, relayed
}

// askSelf returns the upstream's answer to a question to which other replicas do not know the answer. The caller holds
// its lease.
func (h *Handler) askSelf(ctx context.Context, u *upstream, q question) *Answer {
	q.own, q.relayed = true, false
	a, result := h.answer(ctx, u, q, h.opts.FetchTimeout)
	if result == ClientGone {
		return failedAnswer(context.Cause(ctx))
	}
	return a
}

// ServePeer answers another replica from memory, the store or the upstream. It waits for the upstream until the check
// ends. With storeOnly, it does not ask the upstream.
func (h *Handler) ServePeer(w http.ResponseWriter, r *http.Request, req route.Request, storeOnly bool) {
	u := h.upstreams[req.Upstream]
	if u == nil || req.Kind != route.Manifest && req.Kind != route.Tags && req.Kind != route.Referrers {
		a, result := h.Get(r.Context(), req, nil) // returns an error
		a.Write(w, r, req, result)
		return
	}
	q := question{Request: normalize(req), own: true}
	var a *Answer
	var result Result
	if storeOnly {
		a, result = h.knownAnswer(r.Context(), u, q), Hit
	} else {
		a, result = h.get(r.Context(), u, q, r.Header["Accept"], h.opts.FetchTimeout)
	}
	if result == ClientGone {
		return
	}
	peer.SetAge(w.Header(), a.Age, a.Stale)
	if result == Hit {
		peer.SetStored(w.Header())
	}
	a.Write(w, r, req, result)
}

// Holds reports whether the store has a manifest or tag, without marking it as used.
func (h *Handler) Holds(ctx context.Context, req route.Request) bool {
	u := h.upstreams[req.Upstream]
	switch {
	case u == nil || u.archive.store == nil || req.Kind != route.Manifest:
		return false
	case req.Tag != "":
		return u.archive.tag(ctx, req.Repository, req.Tag) != ""
	}
	return u.archive.link(ctx, revisionPath(req.Repository, req.Digest, "link")) != ""
}

// Adopt stores the answer of another replica to a request for a manifest or tag, unless Holds is true by then. It
// checks the digest.
func (h *Handler) Adopt(ctx context.Context, req route.Request, get func(context.Context) (*Answer, error)) error {
	v := &reservation{semaphore: h.inFlight}
	defer v.release()
	a, err := get(context.WithValue(ctx, reservationKey{}, v))
	if err != nil {
		return err
	}
	answer, problem := validate(req, a)
	switch {
	case problem != "":
		return errors.New(problem)
	case !answer.isOK():
		return fmt.Errorf("status %d: %s", answer.Status, answer.Message)
	case !v.attach(ctx, answer):
		return errNoRoom
	}
	defer answer.Release()
	store := h.upstreams[req.Upstream].archive
	store.saving.Lock()
	defer store.saving.Unlock()
	save := store.saveManifest
	if req.Tag != "" {
		save = func(ctx context.Context, repository string, m *Answer) bool {
			return store.saveTag(ctx, repository, req.Tag, m)
		}
	}
	if !h.Holds(ctx, req) && !save(ctx, req.Repository, answer) {
		return errNotStored
	}
	return nil
}

// knownAnswer returns the answer to a question from memory or the store, or 404. The answer is stale unless it is for a
// digest.
func (h *Handler) knownAnswer(ctx context.Context, u *upstream, q question) *Answer {
	h.mu.Lock()
	k, old, full := h.lookup(ctx, u, q)
	h.mu.Unlock()
	switch {
	case full:
		return noRoomAnswer()
	case old == nil:
		return errorAnswer(http.StatusNotFound, "MANIFEST_UNKNOWN", "this replica has not stored the content")
	case q.isByDigest():
		return old
	}
	return old.asStale(k.age(time.Now()))
}
