// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPace is fast after a chunk that was taken quickly, and slow after one that was not.
func TestPace(t *testing.T) {
	var p pace
	for i, step := range []struct {
		n             int64
		within        time.Duration
		changed, fast bool
	}{
		{sendChunk - 1, 0, false, false},
		{1, fast - 1, true, true},
		{sendChunk, fast - 1, false, true},
		{4 * sendChunk, 4*fast - 1, false, true},
		{sendChunk, fast, true, false},
		{sendChunk, time.Hour, false, false},
		{sendChunk, 0, true, true},
	} {
		if changed := p.took(step.n, step.within); changed != step.changed || p.fast != step.fast {
			t.Errorf("step %d: changed %v, fast %v", i, changed, p.fast)
		}
	}
}

// TestSlowReader does not fill the kernel's memory, however the bytes are written, and a fast one is sent as much as it takes.
func TestSlowReader(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, make([]byte, 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, send := range map[string]func(*wire) error{
		"sendfile": func(w *wire) error {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = w.ReadFrom(f)
			return err
		},
		"write": func(w *wire) error {
			_, err := w.Write(make([]byte, 32<<20))
			return err
		},
	} {
		server, client := connected(t)
		limitUnsent(server, unsent)
		w := &wire{Conn: server}
		sent := make(chan error, 1)
		go func() { sent <- send(w) }()
		last := -1
		until := time.Now().Add(patience)
		for queued := queue(t, server); queued == 0 || queued != last; queued = queue(t, server) {
			if time.Now().After(until) {
				t.Fatalf("%s: the queue does not rest", what)
			}
			last = queued
			time.Sleep(50 * time.Millisecond)
		}
		// What the client's kernel has promised to take is on its way.
		if last > 2*unsent {
			t.Errorf("%s: %d KiB wait for a client that reads nothing", what, last>>10)
		}
		if _, err := io.CopyN(io.Discard, client, 32<<20); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil || !w.pace.fast {
			t.Errorf("%s: %v, fast %v", what, err, w.pace.fast)
		}
	}
}

// TestIdleTimeIsNotSlow finds a client fast after a chunk, however long it has asked for nothing.
func TestIdleTimeIsNotSlow(t *testing.T) {
	server, client := connected(t)
	w := &wire{Conn: server}
	go func() { _, _ = io.Copy(io.Discard, client) }()
	for _, chunk := range []int{sendChunk / 2, sendChunk / 2} {
		time.Sleep(fast)
		if _, err := w.Write(make([]byte, chunk)); err != nil {
			t.Fatal(err)
		}
	}
	if !w.pace.fast {
		t.Errorf("it is slow after %v", w.pace.spent)
	}
}

// connected returns the ends of a connection whose client promises to take little.
func connected(t *testing.T) (server *net.TCPConn, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := client.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), accepted.Close() })
	return accepted.(*net.TCPConn), client
}

// queue returns how many bytes the kernel has of a connection that its client has not acknowledged.
func queue(t *testing.T, c *net.TCPConn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}
