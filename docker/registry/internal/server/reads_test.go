// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// countedConn counts operations that cost a system call or a timer.
type countedConn struct {
	net.Conn
	counts *connCounts
}

type connCounts struct{ reads, deadlines atomic.Int64 }

func (c countedConn) Read(b []byte) (int, error) {
	c.counts.reads.Add(1)
	return c.Conn.Read(b)
}

func (c countedConn) SetReadDeadline(t time.Time) error {
	c.counts.deadlines.Add(1)
	return c.Conn.SetReadDeadline(t)
}

func (c countedConn) SetWriteDeadline(t time.Time) error {
	c.counts.deadlines.Add(1)
	return c.Conn.SetWriteDeadline(t)
}

type countedListener struct {
	net.Listener
	counts *connCounts
}

func (l countedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countedConn{c, l.counts}, err
}

// serveCounted runs a server on counted connections, and returns a client connection and its server side.
func serveCounted(t *testing.T, handler http.Handler) (net.Conn, *connCounts) {
	t.Helper()
	s, err := New(Options{
		Handler: handler, Checker: allowAll{}, Log: slog.New(slog.DiscardHandler),
		Limits: Limits{HeaderBytes: 16 << 10, HeaderTimeout: patience, IdleTimeout: time.Minute, SendTimeout: time.Minute, UnauthenticatedConnections: 16},
	})
	if err != nil {
		t.Fatal(err)
	}
	l := testutil.Listen(t)
	ctx, stop := context.WithCancel(context.Background())
	done, counts := make(chan error), &connCounts{}
	go func() { done <- s.Run(ctx, countedListener{l, counts}) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c, counts
}

// TestRequestsAreCheap checks that a request whose handler does not wait for its context takes one read and no timer.
func TestRequestsAreCheap(t *testing.T) {
	c, counts := serveCounted(t, hello)
	answers := bufio.NewReader(c)
	const requests = 100
	for range requests {
		send(t, c, request("GET", "/v2/"))
		if response, _ := answer(t, answers, "GET"); response.StatusCode != 200 {
			t.Fatalf("got %d", response.StatusCode)
		}
	}
	if n := counts.reads.Load(); n > requests+2 {
		t.Errorf("%d reads for %d requests", n, requests)
	}
	if n := counts.deadlines.Load(); n > 5 {
		t.Errorf("%d deadlines for %d requests", n, requests)
	}
}

// TestOneByteOfHeaders checks that bytes between requests are read at once, even if net/http's buffer of 4 KiB has room
// for only one byte.
func TestOneByteOfHeaders(t *testing.T) {
	c, _ := serveCounted(t, hello)
	answers := bufio.NewReader(c)
	for number := range 3 {
		whole := request("GET", "/v2/"+strings.Repeat("x", 5000))
		send(t, c, whole[:4095])
		time.Sleep(50 * time.Millisecond) // makes it arrive separately
		send(t, c, whole[4095:])
		if response, _ := answer(t, answers, "GET"); response.StatusCode != 200 {
			t.Fatalf("request %d: got %d", number, response.StatusCode)
		}
	}
}

// TestDisconnectIsNoticed checks that every way to wait for a request's context detects a client that disconnects.
func TestDisconnectIsNoticed(t *testing.T) {
	for name, wait := range map[string]func(context.Context) error{
		"done": func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		},
		"derived": func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(context.WithValue(ctx, connCounts{}, 1), time.Hour)
			defer cancel()
			<-ctx.Done()
			return ctx.Err()
		},
		"function": func(ctx context.Context) error {
			ended := make(chan struct{})
			context.AfterFunc(ctx, func() { close(ended) })
			<-ended
			return ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			entered, left := make(chan struct{}), make(chan error, 1)
			c, _ := serveCounted(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v2/" {
					return
				}
				close(entered)
				left <- wait(r.Context())
			}))
			// First, a request without waiting.
			send(t, c, request("GET", "/v2/"))
			_, _ = answer(t, bufio.NewReader(c), "GET")
			send(t, c, request("GET", "/v2/wait"))
			<-entered
			_ = c.Close()
			select {
			case err := <-left:
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Fatal("the handler waits on")
			}
		})
	}
}

// TestReadDeadline checks that the last deadline applies, whatever the deadline of the TCP connection is.
func TestReadDeadline(t *testing.T) {
	const short, long = 250 * time.Millisecond, time.Hour
	for name, test := range map[string]struct {
		before, during time.Duration // 0 means none
		ends           bool
	}{
		"none":                {0, 0, false},
		"short":               {short, short, true},
		"short, then long":    {short, long, false},
		"short, then none":    {short, 0, false},
		"long, then short":    {long, short, true},
		"none, then short":    {0, short, true},
		"none, then in past":  {0, -long, true},
		"short, then in past": {short, -long, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, server := net.Pipe()
			defer client.Close()
			defer server.Close()
			w := &timedConn{Conn: server}
			set := func(d time.Duration) {
				at := time.Time{}
				if d != 0 {
					at = time.Now().Add(d)
				}
				if err := w.SetReadDeadline(at); err != nil {
					t.Error(err)
				}
			}
			set(test.before)
			read := make(chan error, 1)
			go func() {
				_, err := w.Read(make([]byte, 10))
				read <- err
			}()
			time.Sleep(short / 50) // the read is usually waiting by then
			if test.during != test.before {
				set(test.during)
			}
			select {
			case err := <-read:
				if !test.ends || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %v", err)
				}
			case <-time.After(2 * short):
				if test.ends {
					t.Fatal("the read did not return")
				}
				if _, err := io.WriteString(client, "x"); err != nil {
					t.Error(err)
				}
				if err := <-read; err != nil {
					t.Error(err)
				}
			}
			// Earlier deadlines do not affect later reads.
			set(0)
			go func() { _, _ = io.WriteString(client, "y") }()
			if n, err := w.Read(make([]byte, 10)); n != 1 || err != nil {
				t.Errorf("then %d, %v", n, err)
			}
		})
	}
}
