// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// accessLog logs one of every n requests. It logs no credentials, and of the query only the registry's name.
type accessLog struct {
	log   *slog.Logger
	every uint64
	seen  atomic.Uint64
}

// newAccessLog returns an access log, or nil if no requests are logged.
func newAccessLog(log *slog.Logger, every int) *accessLog {
	if log == nil || every <= 0 {
		return nil
	}
	return &accessLog{log: log, every: uint64(every)}
}

// write logs a finished request. cut reports that the response body is incomplete.
func (a *accessLog) write(w *response, r *http.Request, cut bool) {
	if a == nil || (a.seen.Add(1)-1)%a.every != 0 {
		return
	}
	a.log.LogAttrs(r.Context(), slog.LevelInfo, "Request",
		slog.String("method", r.Method),
		slog.String("path", truncate(r.URL.Path)),
		slog.String("ns", truncate(r.URL.Query().Get("ns"))),
		slog.Int("status", w.status),
		slog.Int64("bytes", w.bytes),
		slog.Bool("cut", cut),
		slog.Duration("duration", time.Since(w.begun)),
		slog.String("remote", r.RemoteAddr),
		slog.String("agent", truncate(r.UserAgent())),
		slog.String("range", truncate(r.Header.Get("Range"))),
	)
}

// truncate shortens text from a client, which may be as long as a header.
func truncate(text string) string {
	const limit = 512
	if len(text) > limit {
		return text[:limit] + "…"
	}
	return text
}
