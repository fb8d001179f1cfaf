// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"bufio"
	"context"
	"net"
	"os"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// fake returns a connection, and a function that reports whether it was closed.
func fake(t *testing.T) (*conn, func() bool) {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	return &conn{timedConn: &timedConn{Conn: near}}, func() bool {
		_ = far.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, err := far.Read(make([]byte, 1))
		netErr, ok := err.(net.Error)
		return !ok || !netErr.Timeout()
	}
}

// later advances the clock of connections.
func later(cs *connections, by time.Duration) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	before := cs.now
	cs.now = func() time.Time { return before().Add(by) }
}

func TestOldestIdleConnectionIsDropped(t *testing.T) {
	var e events
	cs := newConnections(3, e.observe)
	one, oneCut := fake(t)
	two, twoCut := fake(t)
	three, threeCut := fake(t)
	for _, c := range []*conn{one, two, three} {
		if !cs.add(c) {
			t.Fatal("no room")
		}
	}
	// A request makes its connection the youngest.
	later(cs, requestGrace)
	cs.busy(one)
	cs.idle(one)
	four, fourCut := fake(t)
	if !cs.add(four) || oneCut() || !twoCut() || threeCut() || fourCut() {
		t.Errorf("cut: %v, %v, %v, %v, want the second", oneCut(), twoCut(), threeCut(), fourCut())
	}
	if open, unknown := cs.count(); open != 4 || unknown != 3 {
		t.Errorf("%d open, %d unknown", open, unknown)
	}
	// Later events of a dropped connection do not change the count.
	cs.busy(two)
	cs.idle(two)
	cs.authenticated(two)
	cs.closed(two)
	cs.closed(two)
	if open, unknown := cs.count(); open != 3 || unknown != 3 || cs.waiting.Len() != 3 {
		t.Errorf("%d open, %d unknown, %d waiting", open, unknown, cs.waiting.Len())
	}
	if e.of(ConnectionDropped) != 1 || e.of(ConnectionRefused) != 0 {
		t.Errorf("events: %v", e.seen)
	}
}

// accepted returns the server's and the client's end of a new connection.
func accepted(t *testing.T) (*conn, net.Conn) {
	t.Helper()
	server, client := connected(t)
	return &conn{timedConn: &timedConn{Conn: server}}, client
}

// isCut reports whether the server has closed a connection.
func isCut(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return err != nil && !os.IsTimeout(err)
}

// TestUnreadRequestKeepsItsConnection checks that a burst of connections does not drop a connection whose request the
// program has not read yet.
func TestUnreadRequestKeepsItsConnection(t *testing.T) {
	const limit = 4
	var e events
	cs := newConnections(limit, e.observe)
	known, client := accepted(t)
	cs.add(known)
	send(t, client, get)
	testutil.Eventually(t, "the request is there", known.hasUnread)
	var others []net.Conn
	for range 5 * limit {
		later(cs, requestGrace)
		c, other := accepted(t)
		if !cs.add(c) {
			t.Fatal("no room")
		}
		others = append(others, other)
	}
	if isCut(client) {
		t.Error("the connection with a request was cut")
	}
	if !isCut(others[0]) || isCut(others[len(others)-1]) {
		t.Error("the oldest one without a request was not cut, or the youngest was")
	}
	if _, unknown := cs.count(); unknown > limit {
		t.Errorf("%d connections without a credential", unknown)
	}
	// The limit holds even if all connections have unread bytes.
	for range 5 * limit {
		c, other := accepted(t)
		send(t, other, get)
		testutil.Eventually(t, "the request is there", c.hasUnread)
		cs.add(c)
	}
	if _, unknown := cs.count(); unknown > 2*limit {
		t.Errorf("%d connections without a credential", unknown)
	}
}

// TestYoungConnectionKeepsItsPlace checks that a young connection keeps its place as long as there are fewer
// connections than twice the limit.
func TestYoungConnectionKeepsItsPlace(t *testing.T) {
	const limit = 4
	cs := newConnections(limit, func(Event) {})
	var cut []func() bool
	for range 2*limit + 1 {
		c, isCut := fake(t)
		if !cs.add(c) {
			t.Fatal("no room")
		}
		cut = append(cut, isCut)
	}
	if !cut[0]() || cut[1]() || cut[2*limit]() {
		t.Error("beyond twice the limit only the oldest is cut")
	}
	later(cs, requestGrace)
	for range limit {
		c, _ := fake(t)
		cs.add(c)
	}
	if _, unknown := cs.count(); unknown != limit {
		t.Errorf("%d connections, want %d", unknown, limit)
	}
}

// TestWholeHeaderIsBusy checks that a connection becomes busy when a request has been read, before net/http has parsed
// it.
func TestWholeHeaderIsBusy(t *testing.T) {
	for text, want := range map[string]bool{
		get: true, "GET / HTTP/1.1\r\n": false, "GET": false, "\r\n": false, "\r\n\r\n": false, get + "G": false, get + get: true,
		"POST / HTTP/1.1\r\n\r\nbody": true,
	} {
		c, client := accepted(t)
		c.stream, c.conns = c.timedConn, newConnections(2, func(Event) {})
		c.conns.add(c)
		send(t, client, text)
		if n, err := c.Read(make([]byte, 4096)); n != len(text) || err != nil {
			t.Fatalf("%q: read %d, %v", text, n, err)
		}
		if busy := c.conns.waiting.Len() == 0; busy != want {
			t.Errorf("%q: busy %v", text, busy)
		}
	}
}

func TestAuthenticatedConnectionsAreOutsideOfTheLimit(t *testing.T) {
	cs := newConnections(2, func(Event) {})
	var cut []func() bool
	for range 10 {
		c, isCut := fake(t)
		if !cs.add(c) {
			t.Fatal("no room")
		}
		cs.busy(c)
		cs.authenticated(c)
		cs.authenticated(c)
		cs.idle(c)
		cut = append(cut, isCut)
	}
	if open, unknown := cs.count(); open != 10 || unknown != 0 || cs.waiting.Len() != 0 {
		t.Errorf("%d open, %d unknown, %d waiting", open, unknown, cs.waiting.Len())
	}
	for i, isCut := range cut {
		if isCut() {
			t.Errorf("%d was cut", i)
		}
	}
}

func TestBusyConnectionsKeepTheirPlace(t *testing.T) {
	var e events
	cs := newConnections(2, e.observe)
	var all []*conn
	for i := range 5 {
		c, isCut := fake(t)
		if fits := cs.add(c); fits != (i < 4) {
			t.Fatalf("%d: %v", i, fits)
		}
		cs.busy(c)
		all = append(all, c)
		if isCut() {
			t.Errorf("%d was cut", i)
		}
	}
	if e.of(ConnectionRefused) != 1 || e.of(ConnectionDropped) != 0 {
		t.Errorf("events: %v", e.seen)
	}
	cs.closed(all[0])
	if c, _ := fake(t); !cs.add(c) {
		t.Error("no room after one has ended")
	}
}

func TestWaitForConnections(t *testing.T) {
	cs := newConnections(2, func(Event) {})
	if !cs.wait(context.Background(), time.Hour) {
		t.Error("waits for nothing")
	}
	c, _ := fake(t)
	cs.add(c)
	if cs.wait(context.Background(), time.Millisecond) {
		t.Error("does not wait")
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if cs.wait(ended, time.Hour) {
		t.Error("does not wait")
	}
	done := make(chan bool)
	go func() { done <- cs.wait(context.Background(), patience) }()
	cs.closed(c)
	if !<-done {
		t.Error("did not notice the end")
	}
}

// TestIdleConnectionsDoNotBlockClients checks that idle connections without a credential do not block a client that sends a request
// immediately.
func TestIdleConnectionsDoNotBlockClients(t *testing.T) {
	const limit = 8
	r := start(t, func(o *Options) { o.Limits.UnauthenticatedConnections = limit })
	// A connection with a valid credential stays.
	known := r.dial()
	reader := bufio.NewReader(known)
	send(t, known, get)
	answer(t, reader, "GET")
	// A connection that has received a 401 is idle.
	refused := r.dial()
	send(t, refused, request("GET", "/v2/"))
	answer(t, bufio.NewReader(refused), "GET")
	for range 5 * limit {
		send(t, r.dial(), "GET /v2/ HTTP/1.1\r\n")
		later(r.conns, requestGrace)
		if response, _ := r.ask("GET", "/v2/", "Authorization: Basic good"); response.StatusCode != 200 {
			t.Fatalf("got %d", response.StatusCode)
		}
	}
	closes(t, refused)
	send(t, known, get)
	if response, _ := answer(t, reader, "GET"); response.StatusCode != 200 {
		t.Errorf("got %d", response.StatusCode)
	}
	testutil.Eventually(t, "the dropped ones end", func() bool { _, unknown := r.conns.count(); return unknown <= limit })
	if r.events.of(ConnectionDropped) < 3*limit || r.events.of(ConnectionRefused) != 0 {
		t.Errorf("events: %v", r.events.seen)
	}
}
