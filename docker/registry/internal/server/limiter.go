// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// limiterKeys is the maximum number of messages with separate budgets; further ones share a budget.
const limiterKeys = 512

// LimitLog returns a handler that passes at most burst records with the same level and message to next in each period.
// The first record of the next period has the number of dropped records as "suppressed".
func LimitLog(next slog.Handler, burst int, period time.Duration) slog.Handler {
	return &limitedHandler{next, &logBudget{burst: burst, period: period, spent: map[logKey]*usage{}}}
}

type limitedHandler struct {
	slog.Handler
	budget *logBudget
}

// Handle passes a record to next unless its budget is used up.
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

// usage is the used part of the budget of a key.
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

// allow reports whether a record may pass, and how many were dropped since the last one.
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

// lineWriter logs the lines of net/http's logger as records with the same message, so that they share a budget.
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
