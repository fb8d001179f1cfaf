// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"log/slog"
	"net/http"
	"time"
)

// NewPeers returns a server for the other replicas. It has no probes and checks no credentials: the handler must first
// verify each request, and call Authenticated if it is valid. Until then, a connection counts towards the limit for
// connections without a credential. After the end of Run's context, open transfers may continue for the drain time.
func NewPeers(handler http.Handler, limits Limits, drain time.Duration, log *slog.Logger, observe func(Event)) *Server {
	s := newServer(limits, drain, log, observe)
	s.http.Handler = &requestHandler{server: s, peers: true, next: handler}
	return s
}
