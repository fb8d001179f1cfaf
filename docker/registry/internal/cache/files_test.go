// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"bytes"
	"log/slog"
	"strings"
	"syscall"
	"testing"
)

// TestWarnOfFewFiles names the limit and what is needed, and is silent where that is enough.
func TestWarnOfFewFiles(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}()
	low := syscall.Rlimit{Cur: 1224, Max: before.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	for connections, want := range map[int]string{100: "", 101: "limit=1224 needed=1226"} {
		var log bytes.Buffer
		warnOfFewFiles(connections, slog.New(slog.NewTextHandler(&log, nil)))
		if got := log.String(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%d connections: %q", connections, got)
		}
	}
}
