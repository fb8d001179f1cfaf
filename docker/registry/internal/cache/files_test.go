// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFewFiles checks that fewer connections than configured are accepted if the limit of open files is low, with a
// warning that contains the limit and the required number.
func TestFewFiles(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}()
	for _, test := range []struct {
		files       uint64
		wanted, fit int
		warns       string
	}{
		{1224, 100, 100, ""}, {1224, 101, 101, "limit=1224 needed=1226"}, {300, 512, 75, "limit=300 needed=2048 connections=75"},
		{2048, 512, 512, ""}, {2047, 512, 511, "limit=2047"}, {4000, 4096, 1488, "limit=4000"},
	} {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: test.files, Max: before.Max}); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		fit := fitConnections(test.wanted, slog.New(slog.NewTextHandler(&log, nil)))
		if got := log.String(); fit != test.fit || test.warns == "" && got != "" || !strings.Contains(got, test.warns) {
			t.Errorf("%+v: %d, %q", test, fit, got)
		}
	}
}

// TestFewFilesWithSlowStrangers serves a known client while twice as many unknown clients as there are files send half
// a request.
func TestFewFilesWithSlowStrangers(t *testing.T) {
	lasts(t)
	u := newRegistry(t)
	_, blob := u.image("v1", []byte("layer"))
	f := newFleet(t, 1, u, "")
	f.files = 300
	r := f.replicas[0]
	r.start()
	for range 2 * f.files {
		c, err := net.Dial("tcp", r.address().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := fmt.Fprint(c, "GET /v2/ HTTP/1.1\r\nX-Slow: "); err != nil {
			t.Log(err) // it had to make room
		}
	}
	for range 3 {
		begun := time.Now()
		if a := r.get(blobPath(blob)); a.status != 200 || time.Since(begun) > 3*time.Second {
			t.Errorf("%d, %v after %v", a.status, a.err, time.Since(begun))
		}
	}
}
