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

// Verdicts. The zero value and any other that is not Good refuse.
const (
	Undecided Verdict = iota // 403
	Good
	Bad      // 401
	TryLater // 429
)

// A Decision is a verdict with what else the answer needs.
type Decision struct {
	Verdict    Verdict
	RetryAfter time.Duration // of TryLater; 0: two seconds
}

// A Checker checks the credential of a request: the value of its Authorization header, empty if there is none. Remote returns the
// client's address.
type Checker interface {
	Check(ctx context.Context, authorization string) Decision
}

// allowAll is a Checker that accepts every credential. It is for listeners without credentials.
type allowAll struct{}

// Check accepts every credential.
func (allowAll) Check(context.Context, string) Decision { return Decision{Verdict: Good} }

// requestHandler is the handler of all requests of a server. It answers those that are not passed to next.
type requestHandler struct {
	server  *Server
	checker Checker
	peers   bool // next verifies each request, and there are no probes
	next    http.Handler
	access  *accessLog                   // nil: off
	record  func(*http.Request, Outcome) // nil: nobody counts
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
		h.refuseBody(w, r, http.StatusBadRequest, "a request has no body here")
	case h.peers:
		h.next.ServeHTTP(w, r)
	case h.server.probes.serve(w, r):
		w.probe = true
	case h.authorize(w, r):
		h.next.ServeHTTP(w, r)
	}
}

// refuseBody answers with an error without waiting for the body. net/http reads on for a moment, so that the answer arrives.
func (h *requestHandler) refuseBody(w *response, r *http.Request, status int, message string) {
	w.Header().Set("Connection", "close") // what follows may be a body
	if r.ContentLength != 0 {
		if c := connFrom(r.Context()); c != nil {
			h.server.conns.idle(c)
		}
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(linger)) // not supported: not net/http's
	}
	WriteError(w, r, status, "UNSUPPORTED", message)
}

// authorize reports whether a request's credential is good. If it is not, it answers with an error.
func (h *requestHandler) authorize(w http.ResponseWriter, r *http.Request) bool {
	authorization := r.Header["Authorization"]
	if len(authorization) > 1 {
		WriteError(w, r, http.StatusUnauthorized, "", "there is more than one Authorization header")
		return false
	}
	decision := h.checker.Check(r.Context(), r.Header.Get("Authorization"))
	switch decision.Verdict {
	case Good:
		// Nothing behind this needs the credential, so nothing can pass it on or log it.
		r.Header.Del("Authorization")
		Authenticated(r.Context())
		return true
	case Bad:
		WriteError(w, r, http.StatusUnauthorized, "", "a credential of this cache is required")
	case TryLater:
		if decision.RetryAfter > 0 {
			setRetryAfter(w.Header(), decision.RetryAfter)
		}
		WriteError(w, r, http.StatusTooManyRequests, "", "too many credentials wait for their check")
	default:
		WriteError(w, r, http.StatusForbidden, "", "the credential was not decided on")
	}
	return false
}

// finish ends a request. After a panic, or if the handler did not answer, it answers 500, or cuts the connection if an answer has
// begun.
func (h *requestHandler) finish(w *response, r *http.Request, panicked any) {
	if err, ok := panicked.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		h.report(w, r, true)
		panic(http.ErrAbortHandler) // intended: the body cannot be completed
	}
	cut := false
	switch {
	case panicked != nil:
		h.server.observe(HandlerPanicked)
		h.server.log.Error("A handler panicked", "panic", fmt.Sprint(panicked), "path", r.URL.Path, "stack", string(debug.Stack()))
		cut = w.status != 0
	case w.status == 0 && r.Context().Err() == nil: // else the client has gone
		h.server.observe(HandlerSilent)
		h.server.log.Error("A handler gave no answer", "path", r.URL.Path)
	}
	if w.status == 0 {
		WriteError(w, r, http.StatusInternalServerError, "", "the cache failed; its log says why")
	}
	h.report(w, r, cut)
	if cut {
		panic(http.ErrAbortHandler)
	}
}

// report logs and counts a request that was answered. cut reports that its body is incomplete.
func (h *requestHandler) report(w *response, r *http.Request, cut bool) {
	h.access.write(w, r, cut)
	if h.record != nil && !w.probe {
		h.record(r, Outcome{Description: descriptionOf(r.Context()), Status: w.status, Bytes: w.bytes, FirstByte: w.first, Cut: cut})
	}
}

// probes are for the kubelet. They need no credential and ask no upstream.
type probes struct {
	ready    func() bool
	draining *atomic.Bool
}

// isReady reports whether the program serves and does not drain.
func (p probes) isReady() bool { return !p.draining.Load() && (p.ready == nil || p.ready()) }

// serve answers /alive and /ready, and reports whether the request was for one of them.
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
