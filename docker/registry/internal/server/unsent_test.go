// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestSendRate checks that a client is fast after a chunk that it received quickly, and slow after one that it did not.
func TestSendRate(t *testing.T) {
	var p sendRate
	for i, step := range []struct {
		n           int64
		within      time.Duration
		chunk, fast bool
	}{
		{sendChunk - 1, 0, false, false},
		{1, fast - 1, true, true},
		{sendChunk, fast - 1, true, true},
		{4 * sendChunk, 4*fast - 1, true, true},
		{sendChunk, fast, true, false},
		{sendChunk, time.Hour, true, false},
		{sendChunk, 0, true, true},
	} {
		if chunk := p.add(step.n, step.within); chunk != step.chunk || p.fast != step.fast {
			t.Errorf("step %d: chunk %v, fast %v", i, chunk, p.fast)
		}
	}
}

// TestCrowdLimit checks that few clients have no limit, and more clients share the total.
func TestCrowdLimit(t *testing.T) {
	for size, want := range map[int64]int{
		0: 0, 1: 0, 8: 0, 9: 1 << 20, 16: 1 << 20, 17: 512 << 10, 64: 256 << 10, 65: 128 << 10, 10000: 128 << 10,
	} {
		var c largeAnswers
		c.size.Store(size)
		if got := c.limit(); got != want {
			t.Errorf("%d clients: %d, want %d", size, got, want)
		}
	}
}

// TestSenderInCrowd checks that a large response is counted from its beginning to its end, and that the kernel gets
// each new limit.
func TestSenderInCrowd(t *testing.T) {
	c, _ := connected(t)
	var all largeAnswers
	s := sendLimiter{largeAnswers: &all, unsent: unsent}
	expect := func(when string, size int64, limit, buffer int) {
		t.Helper()
		kernel := option(t, c, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
		if all.size.Load() != size || s.unsent != limit || s.buffer != buffer || kernel != limit {
			t.Errorf("%s: %d in the crowd, limits %d and %d, the kernel has %d", when, all.size.Load(), s.unsent, s.buffer, kernel)
		}
	}
	limitUnsent(c, unsent)
	s.prepare(c, large-1)
	s.written(c, large-1, 0)
	expect("a small answer", 0, unsent, 0)
	s.end()
	s.written(c, large-1, 0)
	expect("another one", 0, unsent, 0)
	s.written(c, 1, 0)
	expect("a large one", 1, unsent, 0)
	s.written(c, sendChunk, 0)
	expect("after a chunk", 1, 0, 0)
	all.size.Add(16)
	s.written(c, sendChunk, 0)
	expect("with 16 others", 17, 512<<10, 768<<10)
	s.end()
	s.end()
	expect("after the answer", 16, 512<<10, 768<<10)
	all.size.Add(16)
	s.prepare(c, large)
	s.prepare(c, large)
	expect("with 32 others", 33, 256<<10, 384<<10)
	all.size.Add(-32)
	s.written(c, sendChunk, 0)
	expect("alone", 1, 0, 0)
	s.written(c, sendChunk, time.Hour)
	expect("slow", 1, unsent, 0)
	all.size.Add(1000)
	s.written(c, sendChunk, 0)
	expect("with very many others", 1001, unsentLeast, unsentLeast*3/2)
}

// TestBuffer checks that the send buffer has the given size until the limit is removed.
func TestBuffer(t *testing.T) {
	c, _ := connected(t)
	if option(t, c, unix.SOL_SOCKET, unix.SO_BUF_LOCK) < 0 {
		t.Skip("the kernel is older than 5.14")
	}
	limitBuffer(c, 192<<10)
	if size := option(t, c, unix.SOL_SOCKET, unix.SO_SNDBUF); size != 192<<10 {
		t.Errorf("%d bytes", size)
	}
	if option(t, c, unix.SOL_SOCKET, unix.SO_BUF_LOCK) != sendBufferLock {
		t.Error("it may grow")
	}
	limitBuffer(c, 0)
	if option(t, c, unix.SOL_SOCKET, unix.SO_BUF_LOCK) != 0 {
		t.Error("it may not grow")
	}
}

// TestCrowdEnds checks that finished responses are not counted, whether or not the connection stays open.
func TestCrowdEnds(t *testing.T) {
	r := start(t, func(o *Options) {
		o.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			body := make([]byte, sendChunk)
			for range 16 {
				if _, err := w.Write(body); err != nil {
					return
				}
			}
		})
	})
	counted := func(n int64) func() bool { return func() bool { return r.largeAnswers.size.Load() == n } }
	for what, end := range map[string]func(net.Conn){
		"read":   func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"closed": func(c net.Conn) { c.Close() },
	} {
		c := r.dial()
		send(t, c, get)
		testutil.Eventually(t, "it is counted", counted(1))
		go end(c)
		testutil.Eventually(t, what, counted(0))
		c.Close()
	}
}

// TestSlowReader checks that a slow client does not fill the kernel's memory, however the bytes are written, and that a
// fast client is not limited.
func TestSlowReader(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, make([]byte, 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, send := range map[string]func(*timedConn) error{
		"sendfile": func(w *timedConn) error {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = w.ReadFrom(f)
			return err
		},
		"write": func(w *timedConn) error {
			_, err := w.Write(make([]byte, 32<<20))
			return err
		},
	} {
		server, client := connected(t)
		limitUnsent(server, unsent)
		w := &timedConn{Conn: server, sender: sendLimiter{largeAnswers: new(largeAnswers), unsent: unsent}}
		sent := make(chan error, 1)
		go func() { sent <- send(w) }()
		last := int64(-1)
		until := time.Now().Add(patience)
		for held := queued(server); held == 0 || held != last; held = queued(server) {
			if time.Now().After(until) {
				t.Fatalf("%s: the queue does not rest", what)
			}
			last = held
			time.Sleep(50 * time.Millisecond)
		}
		// Bytes within the client's receive window are on the way.
		if last > 2*unsent {
			t.Errorf("%s: %d KiB wait for a client that reads nothing", what, last>>10)
		}
		if _, err := io.CopyN(io.Discard, client, 32<<20); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil || !w.sender.fast {
			t.Errorf("%s: %v, fast %v", what, err, w.sender.fast)
		}
	}
}

// TestIdleTimeIsNotSlow checks that idle time does not make a client slow.
func TestIdleTimeIsNotSlow(t *testing.T) {
	server, client := connected(t)
	w := &timedConn{Conn: server, sender: sendLimiter{largeAnswers: new(largeAnswers)}}
	go func() { _, _ = io.Copy(io.Discard, client) }()
	for _, chunk := range []int{sendChunk / 2, sendChunk / 2} {
		time.Sleep(fast)
		if _, err := w.Write(make([]byte, chunk)); err != nil {
			t.Fatal(err)
		}
	}
	if !w.sender.fast {
		t.Errorf("it is slow after %v", w.sender.spent)
	}
}

// connected returns both ends of a connection whose client has a small receive window.
func connected(t *testing.T) (server *net.TCPConn, client net.Conn) {
	t.Helper()
	client, accepted := testutil.Connect(t)
	if err := client.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	return accepted.(*net.TCPConn), client
}

// option returns the value of a socket option, or -1 if the kernel does not support it.
func option(t *testing.T, c net.Conn, level, name int) (n int) {
	t.Helper()
	control(c, func(fd int) {
		var err error
		if n, err = unix.GetsockoptInt(fd, level, name); err != nil {
			n = -1
		}
	})
	return n
}
