// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// helloBytes returns the first bytes of a TLS client.
func helloBytes(t *testing.T) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	go func() { _ = tls.Client(client, &tls.Config{ServerName: "localhost"}).Handshake() }()
	b := make([]byte, 16<<10)
	n, err := server.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func TestPlainPortAnswersTLSHello(t *testing.T) {
	r := start(t, nil)
	whole := helloBytes(t)
	withoutLineFeed := bytes.ReplaceAll(whole, []byte{'\n'}, []byte{0})
	for name, parts := range map[string][][]byte{
		"whole":           {whole},
		"no line feed":    {withoutLineFeed},
		"two segments":    {whole[:100], whole[100:]},
		"first byte":      {whole[:1]},
		"byte by byte":    slices.Collect(slices.Chunk(whole[:64], 1)),
		"much more to it": {whole, make([]byte, 100<<10)},
	} {
		t.Run(name, func(t *testing.T) {
			c := r.dial()
			_ = c.(*net.TCPConn).SetNoDelay(true)
			begin := time.Now()
			for _, part := range parts {
				if _, err := c.Write(part); err != nil {
					t.Fatal(err)
				}
			}
			// Like crypto/tls, and therefore containerd, check the first five bytes.
			first := make([]byte, 5)
			if _, err := io.ReadFull(c, first); err != nil || string(first) != "HTTP/" {
				t.Fatalf("got %q, %v", first, err)
			}
			if waited := time.Since(begin); waited > linger*9/10 {
				t.Errorf("the answer took %v", waited)
			}
			rest, err := io.ReadAll(c)
			if err != nil || !strings.HasPrefix(string(rest), "1.1 400 ") {
				t.Errorf("got %q, %v", rest, err)
			}
			if waited := time.Since(begin); waited > linger*9/10 {
				t.Errorf("the end of the answer took %v", waited)
			}
		})
	}
	if got := r.events.of(TLSHello); got != 6 {
		t.Errorf("%d were counted", got)
	}
}

// TestHTTPSClientOnPlainPort checks that Go's HTTPS client, which containerd uses, detects immediately that the port
// speaks plain HTTP.
func TestHTTPSClientOnPlainPort(t *testing.T) {
	r := start(t, nil)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{}}
	_, err := client.Get("https://" + r.address + "/v2/")
	if err == nil || !strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		t.Errorf("got %v", err)
	}
}

func TestHeaderLimits(t *testing.T) {
	r := start(t, nil)
	many := func(n int) []string {
		lines := make([]string, n)
		for i := range lines {
			lines[i] = fmt.Sprintf("X%d: y", i)
		}
		return lines
	}
	for name, test := range map[string]struct {
		headers []string
		status  int
	}{
		"large":          {[]string{"Authorization: Basic good", "Range: " + strings.Repeat("x", 15<<10)}, 200},
		"too large":      {[]string{"X: " + strings.Repeat("x", 17<<10)}, 431},
		"many lines":     {append(many(100), "Authorization: Basic good"), 200},
		"too many lines": {many(headerLines + 1), 431},
	} {
		t.Run(name, func(t *testing.T) {
			if response, _ := r.ask("GET", "/v2/", test.headers...); response.StatusCode != test.status {
				t.Errorf("got %d, want %d", response.StatusCode, test.status)
			}
		})
	}
}

// TestHeaderLinesAreCountedByRequest checks that the header lines of a request do not count towards the next one of the
// connection, with and without pipelining.
func TestHeaderLinesAreCountedByRequest(t *testing.T) {
	r := start(t, nil)
	c := r.dial()
	reader := bufio.NewReader(c)
	for range headerLines {
		send(t, c, get)
		if response, _ := answer(t, reader, "GET"); response.StatusCode != 200 {
			t.Fatalf("got %d", response.StatusCode)
		}
	}
	const ahead = 100
	send(t, c, strings.Repeat(get, ahead))
	for range ahead {
		if response, _ := answer(t, reader, "GET"); response.StatusCode != 200 {
			t.Fatalf("got %d", response.StatusCode)
		}
	}
}

func TestSlowHeaderIsCut(t *testing.T) {
	r := start(t, func(o *Options) { o.Limits.HeaderTimeout = 100 * time.Millisecond })
	c := r.dial()
	send(t, c, "GET /v2/ HTTP/1.1\r\nX: ")
	closes(t, c)
}

func TestIdleConnectionIsClosed(t *testing.T) {
	r := start(t, func(o *Options) { o.Limits.IdleTimeout = 50 * time.Millisecond })
	c := r.dial()
	send(t, c, get)
	closes(t, c)
}

// endless sends until the client disconnects, and then sends the error to gone.
func endless(gone chan<- error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		b := make([]byte, 1<<20)
		for {
			if _, err := w.Write(b); err != nil {
				gone <- err
				return
			}
		}
	})
}

func TestStalledReaderIsCut(t *testing.T) {
	gone := make(chan error, 1)
	r := start(t, func(o *Options) {
		o.Limits.SendTimeout = 200 * time.Millisecond
		o.Handler = endless(gone)
	})
	send(t, r.dial(), get)
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the transfer still waits")
	}
}

// file returns a handler that serves a file of the given size.
func file(t *testing.T, size int64) http.Handler {
	t.Helper()
	path := filepath.Join(t.TempDir(), "content")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) })
}

// TestSlowReaderFinishes checks that a slow client is served for longer than the send timeout, also with sendfile.
func TestSlowReaderFinishes(t *testing.T) {
	const size = 8 << 20
	// At the rate below, the client counts as slow.
	timeout := 1200 * time.Millisecond
	r := start(t, func(o *Options) {
		o.Limits.SendTimeout = timeout
		o.Handler = file(t, size)
	})
	c := r.dial()
	_ = c.(*net.TCPConn).SetReadBuffer(64 << 10)
	begin := time.Now()
	send(t, c, request("GET", "/v2/x", "Authorization: Basic good", "Connection: close"))
	reader := bufio.NewReader(c)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := int64(0)
	for {
		n, err := io.CopyN(io.Discard, response.Body, size/40)
		got += n
		if err != nil {
			break
		}
		time.Sleep(timeout / 20) // the rate of the client, not a wait
	}
	if got != size || time.Since(begin) < timeout*3/2 {
		t.Errorf("got %d of %d bytes in %v", got, size, time.Since(begin))
	}
}

// TestClientSlowsDown checks that a client that slows down is still served while the kernel's buffer is full, and cut
// when it stops receiving.
func TestClientSlowsDown(t *testing.T) {
	const size = 5 << 20
	name := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, write := range map[string]func(*timedConn) (int64, error){
		"sendfile": func(w *timedConn) (int64, error) {
			f, err := os.Open(name)
			if err != nil {
				return 0, err
			}
			defer f.Close()
			return w.ReadFrom(f)
		},
		"write": func(w *timedConn) (int64, error) {
			n, err := w.Write(make([]byte, size))
			return int64(n), err
		},
	} {
		for _, goesOn := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, continues: %v", what, goesOn), func(t *testing.T) {
				t.Parallel()
				server, client := connected(t)
				w := &timedConn{Conn: server, timeout: 600 * time.Millisecond, sender: sendLimiter{largeAnswers: new(largeAnswers), sendRate: sendRate{fast: true}}}
				sent, failed := make(chan int64, 1), make(chan error, 1)
				go func() {
					n, err := write(w)
					sent <- n
					failed <- err
				}()
				for goesOn && len(failed) == 0 {
					n, err := io.CopyN(io.Discard, client, 64<<10)
					if n == 0 || err != nil {
						t.Fatal(n, err)
					}
					time.Sleep(60 * time.Millisecond) // rate of the client
				}
				n, err := <-sent, <-failed
				if goesOn && (n != size || err != nil) || !goesOn && (n == size || !errors.Is(err, os.ErrDeadlineExceeded)) {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
		}
	}
}

// taker is a connection that records the readers passed to ReadFrom.
type taker struct {
	net.Conn
	sources []io.Reader
}

func (c *taker) ReadFrom(r io.Reader) (int64, error) {
	c.sources = append(c.sources, r)
	return io.Copy(io.Discard, r)
}

func (c *taker) Write(b []byte) (int, error) { return len(b), nil }

func (c *taker) SetWriteDeadline(time.Time) error { return nil }

func TestFilesAreSentByTheKernel(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "content"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 3*sendChunk + 5
	if err := f.Truncate(size + 10); err != nil {
		t.Fatal(err)
	}
	to := &taker{}
	limited := &io.LimitedReader{R: f, N: size}
	n, err := (&timedConn{Conn: to, timeout: time.Second, sender: sendLimiter{largeAnswers: new(largeAnswers)}}).ReadFrom(limited)
	if n != size || err != nil || limited.N != 0 || len(to.sources) != 4 {
		t.Fatalf("got %d, %v, %d left, %d reads", n, err, limited.N, len(to.sources))
	}
	for _, source := range to.sources {
		// net.TCPConn uses sendfile exactly in this case.
		if l, ok := source.(*io.LimitedReader); !ok || l.R != io.Reader(f) {
			t.Errorf("got %T", source)
		}
	}
	// Without a limit, up to the end of the file.
	if n, err = (&timedConn{Conn: to, sender: sendLimiter{largeAnswers: new(largeAnswers)}}).ReadFrom(f); n != 10 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	// Content that is not a file is not passed to the connection's ReadFrom, which would allocate a buffer for each
	// chunk.
	before := len(to.sources)
	if n, err = (&timedConn{Conn: to, sender: sendLimiter{largeAnswers: new(largeAnswers)}}).ReadFrom(strings.NewReader("text")); n != 4 || err != nil || len(to.sources) != before {
		t.Errorf("got %d, %v", n, err)
	}
}

// TestExplicitDeadlineIsKept checks that a deadline set by a caller is not moved by a write.
func TestExplicitDeadlineIsKept(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	w := &timedConn{Conn: server, timeout: time.Hour}
	if err := w.SetWriteDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); !os.IsTimeout(err) {
		t.Errorf("got %v", err)
	}
	if err := w.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = client.Read(make([]byte, 1)) }()
	if _, err := w.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if w.extended.Load() == 0 {
		t.Error("the time limit is off for good")
	}
}

func TestHeaderScan(t *testing.T) {
	get := "GET / HTTP/1.1\r\nA: b\r\n\r\n"
	for text, want := range map[string]struct {
		most    int
		refused bool
	}{
		"":                                 {0, false},
		"GET":                              {0, false},
		"GET / HTTP/1.1\r\nA: b\r\nC":      {2, false},
		get:                                {2, false},
		get + get + get:                    {2, false},
		"GET / HTTP/1.1\nA: b\n\n" + get:   {2, false},
		"\r\n\r\n" + get:                   {2, false},
		strings.Repeat("a\n", 50):          {50, false},
		"POST / HTTP/1.1\r\n\r\n":          {1, true},
		"GETS / HTTP/1.1\r\n\r\n":          {1, true},
		"HEAD / HTTP/1.1\r\n\r\n":          {1, false},
		"PUT / HTTP/1.1\r\n\r\n1\n2\n3\n4": {1, true},
	} {
		for step := 1; step <= len(text)+1; step++ {
			var s headerScanner
			most := 0
			for rest := []byte(text); len(rest) > 0 && !s.refused; {
				n := min(step, len(rest))
				most = max(most, s.scan(rest[:n]))
				rest = rest[n:]
			}
			if most != want.most || s.refused != want.refused {
				t.Errorf("%q in steps of %d: got %d, %v, want %d, %v", text, step, most, s.refused, want.most, want.refused)
			}
		}
	}
}

// TestSlowBodies checks that 1,000 clients without a credential that send bodies slowly use little memory, and do not
// affect the probes.
func TestSlowBodies(t *testing.T) {
	r := start(t, func(o *Options) { o.Limits.UnauthenticatedConnections = 256 })
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const senders = 1000
	for range senders {
		c, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		send(t, c, request("POST", "/v2/r/blobs/uploads/", "Content-Length: 1000000")+"x")
		if response, _ := answer(t, bufio.NewReader(c), "POST"); response.StatusCode != 405 {
			t.Fatalf("got %d", response.StatusCode)
		}
	}
	begin := time.Now()
	if response, _ := r.ask("GET", "/alive"); response.StatusCode != 200 {
		t.Errorf("got %d", response.StatusCode)
	}
	waited := time.Since(begin)
	// Answered connections make room.
	if n := r.events.of(ConnectionRefused); n > 0 {
		t.Errorf("%d connections were refused", n)
	}
	runtime.ReadMemStats(&after)
	// Memory in use by the test process, including the clients.
	cost := int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)
	t.Logf("%d senders: %d KiB, probe in %v", senders, cost>>10, waited)
	if cost > 32<<20 || waited > time.Second {
		t.Errorf("%d senders cost %d MiB, and a probe took %v", senders, cost>>20, waited)
	}
}
