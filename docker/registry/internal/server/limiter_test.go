// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLimitLog(t *testing.T) {
	var b bytes.Buffer
	h := LimitLog(slog.NewTextHandler(&b, nil), 2, time.Minute)
	begin := time.Now()
	say := func(after time.Duration, level slog.Level, message string) string {
		t.Helper()
		b.Reset()
		record := slog.NewRecord(begin.Add(after), level, message, 0)
		if err := h.Handle(context.Background(), record); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for i, want := range []bool{true, true, false, false, false} {
		if got := say(time.Duration(i)*time.Second, slog.LevelError, "one"); (got != "") != want {
			t.Errorf("%d: got %q", i, got)
		}
	}
	if say(10*time.Second, slog.LevelError, "two") == "" || say(10*time.Second, slog.LevelWarn, "one") == "" {
		t.Error("another message or level is limited by the first")
	}
	if got := say(time.Minute, slog.LevelError, "one"); !strings.Contains(got, "suppressed=3") {
		t.Errorf("got %q", got)
	}
	if got := say(time.Minute, slog.LevelError, "one"); got == "" || strings.Contains(got, "suppressed") {
		t.Errorf("got %q", got)
	}
	if got := say(time.Minute, slog.LevelError, "one"); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestLimitLogSharesItsBudget(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(LimitLog(slog.NewTextHandler(&b, nil), 1, time.Hour))
	log.With("a", 1).WithGroup("g").Error("message", "b", 2)
	log.Error("message")
	if got := strings.Count(b.String(), "\n"); got != 1 || !strings.Contains(b.String(), "a=1 g.b=2") {
		t.Errorf("got %s", &b)
	}
}

func TestLimitLogIsBounded(t *testing.T) {
	var b bytes.Buffer
	h := LimitLog(slog.NewTextHandler(&b, nil), 1, time.Hour).(*limitedHandler)
	log := slog.New(h)
	for i := range 3 * limiterKeys {
		log.Error(fmt.Sprint(i))
	}
	if n := len(h.budget.spent); n > limiterKeys+1 {
		t.Errorf("%d messages are remembered", n)
	}
	if n := strings.Count(b.String(), "\n"); n != limiterKeys+1 {
		t.Errorf("%d passed", n)
	}
}

func TestLineWriter(t *testing.T) {
	var b bytes.Buffer
	n, err := lineWriter{slog.New(slog.NewTextHandler(&b, nil))}.Write([]byte("http: odd\n"))
	if n != 10 || err != nil || !strings.HasSuffix(b.String(), "msg=\"HTTP server\" error=\"http: odd\"\n") {
		t.Errorf("%d, %v, %s", n, err, &b)
	}
}
