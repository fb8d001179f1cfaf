// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// limiterKeys is the most messages that are counted apart; further ones share a budget.
const limiterKeys = 512

// LimitLog returns a handler that passes at most burst records of the same level and message to next in each period. The first
// record of the next period has the number of dropped ones as "suppressed".
func LimitLog(next slog.Handler, burst int, period time.Duration) slog.Handler {
	return &limitedHandler{next, &logBudget{burst: burst, period: period, spent: map[logKey]*usage{}}}
}

type limitedHandler struct {
	slog.Handler
	budget *logBudget
}

// Handle passes a record on unless there were too many like it.
func (h *limitedHandler) Handle(ctx context.Context, record slog.Record) error {
	allowed, suppressed := h.budget.allow(logKey{record.Level, record.Message}, record.Time)
	if !allowed {
		return nil
	}
	if suppressed > 0 {
		record = record.Clone()
		record.AddAttrs(slog.Int("suppressed", suppressed))
	}
	return h.Handler.Handle(ctx, record)
}

// WithAttrs returns a handler with attributes and the same budget.
func (h *limitedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &limitedHandler{h.Handler.WithAttrs(attrs), h.budget}
}

// WithGroup returns a handler with a group and the same budget.
func (h *limitedHandler) WithGroup(name string) slog.Handler {
	return &limitedHandler{h.Handler.WithGroup(name), h.budget}
}

type logKey struct {
	level   slog.Level
	message string
}

// usage is the part of its budget that a key has used.
type usage struct {
	since            time.Time
	used, suppressed int
}

type logBudget struct {
	burst  int
	period time.Duration
	mu     sync.Mutex
	spent  map[logKey]*usage
}

// allow reports whether a record may pass, and how many were dropped before it.
func (b *logBudget) allow(key logKey, now time.Time) (allowed bool, suppressed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.spent[key]
	if s == nil {
		if len(b.spent) >= limiterKeys {
			key = logKey{level: key.level}
			s = b.spent[key]
		}
		if s == nil {
			s = &usage{since: now}
			b.spent[key] = s
		}
	}
	if now.Sub(s.since) >= b.period {
		suppressed = s.suppressed
		*s = usage{since: now}
	}
	if s.used >= b.burst {
		s.suppressed++
		return false, 0
	}
	s.used++
	return true, suppressed
}

// lineWriter logs the text lines of net/http as records with one message, so that they are limited together.
type lineWriter struct{ log *slog.Logger }

// Write logs a line.
func (w lineWriter) Write(line []byte) (int, error) {
	text := string(line)
	if n := len(text); n > 0 && text[n-1] == '\n' {
		text = text[:n-1]
	}
	w.log.Warn("HTTP server", "error", text)
	return len(line), nil
}
