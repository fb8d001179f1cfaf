// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// A Verdict is the result of checking a credential.
type Verdict int

// Verdicts. Every verdict but Good refuses the request.
const (
	Undecided Verdict = iota // 403
	Good
	Bad      // 401
	TryLater // 429
)

// A Decision is a verdict with the details for the response.
type Decision struct {
	Verdict    Verdict
	RetryAfter time.Duration // for TryLater; 0 means two seconds
}

// A Checker checks the credential of a request: the value of its Authorization header, or "" if there is none. Remote
// returns the client's address from the context.
type Checker interface {
	Check(ctx context.Context, authorization string) Decision
}

// allowAll is a Checker that accepts every credential, for listeners without authentication.
type allowAll struct{}

// Check accepts every credential.
func (allowAll) Check(context.Context, string) Decision { return Decision{Verdict: Good} }

// requestHandler handles all requests to a server. It passes valid requests to next and answers all others.
type requestHandler struct {
	server  *Server
	checker Checker
	peers   bool // next verifies each request; there are no probes
	next    http.Handler
	access  *accessLog                   // nil: off
	record  func(*http.Request, Outcome) // nil: not counted
}

// ServeHTTP answers a request, or passes it to next.
func (h *requestHandler) ServeHTTP(original http.ResponseWriter, r *http.Request) {
	w := &response{ResponseWriter: original, begun: time.Now()}
	r = withRequestContext(r)
	Describe(r.Context(), Description{})
	defer func() {
		h.finish(w, r, recover())
	}()
	if h.server.draining.Load() {
		w.Header().Set("Connection", "close")
	}
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		h.refuseBody(w, r, http.StatusMethodNotAllowed, "this cache is read-only")
	case r.ContentLength != 0:
		h.refuseBody(w, r, http.StatusBadRequest, "requests must not have a body")
	case h.peers:
		h.next.ServeHTTP(w, r)
	case h.server.probes.serve(w, r):
		w.probe = true
	case h.authorize(w, r):
		h.next.ServeHTTP(w, r)
	}
}

// refuseBody sends an error without waiting for the request body. net/http keeps reading for a moment, so that the
// client receives the error.
func (h *requestHandler) refuseBody(w *response, r *http.Request, status int, message string) {
	w.Header().Set("Connection", "close") // a body may follow
	if r.ContentLength != 0 {
		if c := connFrom(r.Context()); c != nil {
			h.server.conns.idle(c)
		}
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(linger)) // not supported outside of net/http
	}
	WriteError(w, r, status, "UNSUPPORTED", message)
}

// authorize reports whether the credential of a request is valid. If it is not, it writes an error response.
func (h *requestHandler) authorize(w http.ResponseWriter, r *http.Request) bool {
	authorization := r.Header["Authorization"]
	if len(authorization) > 1 {
		WriteError(w, r, http.StatusUnauthorized, "", "only one Authorization header is allowed")
		return false
	}
	decision := h.checker.Check(r.Context(), r.Header.Get("Authorization"))
	switch decision.Verdict {
	case Good:
		// No later handler needs the credential. Removing it ensures that it is not forwarded or logged.
		r.Header.Del("Authorization")
		Authenticated(r.Context())
		return true
	case Bad:
		WriteError(w, r, http.StatusUnauthorized, "", "a credential for this cache is required")
	case TryLater:
		if decision.RetryAfter > 0 {
			setRetryAfter(w.Header(), decision.RetryAfter)
		}
		WriteError(w, r, http.StatusTooManyRequests, "", "too many credentials are waiting to be checked")
	default:
		WriteError(w, r, http.StatusForbidden, "", "the credential could not be checked")
	}
	return false
}

// finish ends a request. If the handler panicked or wrote no response, it sends a 500, or cuts the connection if the
// response has begun.
func (h *requestHandler) finish(w *response, r *http.Request, panicked any) {
	if err, ok := panicked.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		h.report(w, r, true)
		panic(http.ErrAbortHandler) // intended by the handler: the body cannot be completed
	}
	cut := false
	switch {
	case panicked != nil:
		h.server.observe(HandlerPanicked)
		h.server.log.Error("A handler panicked", "panic", fmt.Sprint(panicked), "path", r.URL.Path, "stack", string(debug.Stack()))
		cut = w.status != 0
	case w.status == 0 && r.Context().Err() == nil: // the client has not disconnected
		h.server.observe(HandlerSilent)
		h.server.log.Error("A handler wrote no response", "path", r.URL.Path)
	}
	if w.status == 0 {
		WriteError(w, r, http.StatusInternalServerError, "", "internal error; see the log of the cache")
	}
	h.report(w, r, cut)
	if cut {
		panic(http.ErrAbortHandler)
	}
}

// report logs and counts a finished request. cut reports that the response body is incomplete.
func (h *requestHandler) report(w *response, r *http.Request, cut bool) {
	h.access.write(w, r, cut)
	if h.record != nil && !w.probe {
		h.record(r, Outcome{Description: descriptionOf(r.Context()), Status: w.status, Bytes: w.bytes, FirstByte: w.first, Cut: cut})
	}
}

// probes answers the kubelet's probes. They require no credential and do not depend on an upstream.
type probes struct {
	ready    func() bool
	draining *atomic.Bool
}

// isReady reports whether the program is serving and not draining.
func (p probes) isReady() bool { return !p.draining.Load() && (p.ready == nil || p.ready()) }

// serve answers /alive and /ready, and reports whether the request was a probe.
func (p probes) serve(w http.ResponseWriter, r *http.Request) bool {
	status := http.StatusOK
	switch r.URL.Path {
	case "/alive":
	case "/ready":
		if !p.isReady() {
			status = http.StatusServiceUnavailable
		}
	default:
		return false
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, http.StatusText(status)+"\n")
	}
	return true
}
