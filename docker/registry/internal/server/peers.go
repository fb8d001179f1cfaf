// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"log/slog"
	"net/http"
	"time"
)

// NewPeers returns a server for the other replicas. It has no probes and checks nothing: the handler verifies each request
// before all else, and calls Authenticated for those that are good. Until then a connection counts to the limit for
// connections without a credential. Open transfers go on for the drain time after the end of Run's context.
func NewPeers(handler http.Handler, limits Limits, drain time.Duration, log *slog.Logger, observe func(Event)) *Server {
	s := newServer(limits, drain, log, observe)
	s.http.Handler = &requestHandler{server: s, peers: true, next: handler}
	return s
}
