// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"context"
	"net/http"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/server"
)

// probeURI is the URI of probes, which Handler answers.
const probeURI = "/registry-cache/alive"

type hopKey struct{}

// A Hop describes a request from another replica to its handler.
type Hop struct {
	From         string
	StoreOnly    bool // answer only with stored content, or 404
	UpstreamDown bool // the sender considers the upstream down
}

// FromContext returns the hop in a request's context. It returns false for a client request. A handler of a hop must
// not send hops.
func FromContext(ctx context.Context) (Hop, bool) {
	h, ok := ctx.Value(hopKey{}).(Hop)
	return h, ok
}

// Handler returns a handler that passes verified hops to next and adds a proof to each answer. next sees only the parts
// of a request that the MAC covers.
func (p *Peers) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, key, reason := p.verify(r)
		if key != "" {
			answer := &provenResponse{ResponseWriter: w, head: r.Method == http.MethodHead, uri: r.RequestURI, by: p.self.name, hop: h, key: key}
			p.answer(answer, r, h, reason, next)
			answer.finish(r)
			return
		}
		p.refuse(w, r, reason)
	})
}

// answer answers a request that has a valid MAC or another version.
func (p *Peers) answer(w http.ResponseWriter, r *http.Request, h hop, reason Reason, next http.Handler) {
	switch {
	case reason != "":
		p.refuse(w, r, reason)
		return
	case r.RequestURI == probeURI:
		w.WriteHeader(http.StatusNoContent)
		return
	case p.draining.Load() && !h.store:
		p.refuse(w, r, Draining)
		return
	}
	p.counts.received.Add(1)
	r = r.WithContext(context.WithValue(r.Context(), hopKey{}, Hop{h.from, h.store, h.out}))
	r.Header = selectHeaders(r.Header, signedRequest)
	next.ServeHTTP(w, r)
}

// verify returns the hop in a request, and a reason if it must be refused. key is the key for the proof of the answer.
// It is empty for a request without a valid MAC, unless the request has another version.
func (p *Peers) verify(r *http.Request) (h hop, key string, reason Reason) {
	values := r.Header[hopHeader]
	if len(values) == 0 {
		return hop{}, "", Missing
	}
	h, reason = parseHop(values[0], p.version)
	keys := p.secret.get()
	switch {
	case len(values) > 1 || r.ContentLength != 0 || r.Method != http.MethodGet && r.Method != http.MethodHead:
		return hop{}, "", Malformed
	case reason == Version:
		return h, keys[0], Version
	case reason != "":
		return hop{}, "", reason
	}
	key, ok := verifyMAC(keys, h.mac, h.signedParts(r.Method, r.RequestURI, r.Header)...)
	switch {
	case !ok:
		return hop{}, "", WrongMAC
	case h.to != p.self.name:
		return h, key, WrongMember
	}
	if reason = p.nonces.add(h.nonce, h.time, time.Now()); reason == "" {
		if m := p.find(h.from); m != nil {
			m.noteHop()
		}
	}
	return h, key, reason
}

// refuse answers a request that is not a valid hop to this replica.
func (p *Peers) refuse(w http.ResponseWriter, r *http.Request, reason Reason) {
	p.counts.refusals[reason].Add(1)
	if reason == Version {
		w.Header().Set(versionsHeader, p.version)
		server.WriteError(w, r, http.StatusHTTPVersionNotSupported, "HOP_VERSION", "this replica supports other versions of the protocol between replicas")
		return
	}
	w.Header().Set(refusalHeader, string(reason))
	if reason == Draining {
		server.WriteError(w, r, http.StatusServiceUnavailable, errorCodes[reason], "this replica is shutting down")
		return
	}
	server.WriteError(w, r, http.StatusUnauthorized, errorCodes[reason], "this port is for the other replicas")
}

// errorCodes maps reasons to the codes in error bodies.
var errorCodes = map[Reason]string{
	Missing: "HOP_MISSING", Malformed: "HOP_MALFORMED", WrongMAC: "HOP_WRONG_MAC", WrongMember: "HOP_WRONG_MEMBER", Time: "HOP_TIME",
	Replayed: "HOP_REPLAYED", Draining: "HOP_DRAINING",
}
