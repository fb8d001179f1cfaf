// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"container/list"
	"context"
	"sync"
	"time"
)

const (
	// requestGrace is how long a new connection may be without a request before it can be dropped to make room. TCP
	// retransmits a lost first packet after 1 s.
	requestGrace = 3 * time.Second
	// maxVictimScan is how many connections are considered for dropping per new connection.
	maxVictimScan = 16
)

// connections tracks every open connection, and limits those without a valid credential.
//
// At the limit, a new connection replaces the one that has been without a request for longest, so that idle connections
// cannot keep out a client that sends a request at once. A connection keeps its place if it has a request that is being
// answered, is younger than requestGrace, or has bytes that the program has not read yet, which may be a request. If all
// connections keep their place, new ones are accepted up to twice the limit.
type connections struct {
	limit   int
	observe func(Event)
	now     func() time.Time

	mu      sync.Mutex
	open    map[*conn]struct{}
	unknown int           // number of open connections without a valid credential
	waiting *list.List    // unknown connections without a request, longest first
	empty   chan struct{} // closed when no connection is open; nil if nobody waits
}

func newConnections(limit int, observe func(Event)) *connections {
	return &connections{limit: limit, observe: observe, now: time.Now, open: map[*conn]struct{}{}, waiting: list.New()}
}

// add adds a new connection, and reports whether there is room for it.
func (cs *connections) add(c *conn) bool {
	cs.mu.Lock()
	var dropped []*conn
	// Drop two, so that the number falls back to the limit.
	for len(dropped) < 2 && cs.unknown >= cs.limit {
		c := cs.victim()
		if c == nil {
			break
		}
		cs.release(c)
		dropped = append(dropped, c)
	}
	fits := cs.unknown < 2*cs.limit
	if fits {
		cs.open[c] = struct{}{}
		cs.unknown++
		cs.addWaiting(c)
	}
	cs.mu.Unlock()
	for _, c := range dropped {
		c.abort()
		cs.observe(ConnectionDropped)
	}
	if !fits {
		cs.observe(ConnectionRefused)
	}
	return fits
}

// victim returns the connection to drop for a new one, or nil if all keep their place.
func (cs *connections) victim() *conn {
	full := cs.unknown >= 2*cs.limit
	now := cs.now()
	for range min(maxVictimScan, cs.waiting.Len()) {
		oldest := cs.waiting.Front().Value.(*conn)
		if !full && now.Sub(oldest.waits) < requestGrace {
			return nil
		}
		if !oldest.hasUnread() {
			return oldest
		}
		cs.removeWaiting(oldest)
		cs.addWaiting(oldest)
	}
	if full && cs.waiting.Len() > 0 {
		return cs.waiting.Front().Value.(*conn)
	}
	return nil
}

// addWaiting appends a connection to those without a request.
func (cs *connections) addWaiting(c *conn) {
	c.waits, c.place = cs.now(), cs.waiting.PushBack(c)
}

// busy notes that a connection has a request.
func (cs *connections) busy(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.removeWaiting(c)
}

// idle notes that a connection waits for its next request, or is about to be closed.
func (cs *connections) idle(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if _, open := cs.open[c]; open && !c.known && !c.dropped && c.place == nil {
		cs.addWaiting(c)
	}
}

// authenticated permanently exempts a connection from the limit.
func (cs *connections) authenticated(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if _, open := cs.open[c]; open && !c.known && !c.dropped {
		cs.removeWaiting(c)
		c.known = true
		cs.unknown--
	}
}

// closed removes a connection whose goroutine has ended.
func (cs *connections) closed(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if _, open := cs.open[c]; !open {
		return
	}
	cs.release(c)
	delete(cs.open, c)
	if len(cs.open) == 0 && cs.empty != nil {
		close(cs.empty)
		cs.empty = nil
	}
}

// release stops counting a connection towards the limit. It stays in the set of open connections until its goroutine
// has ended.
func (cs *connections) release(c *conn) {
	cs.removeWaiting(c)
	if !c.known && !c.dropped {
		c.dropped = true
		cs.unknown--
	}
}

// removeWaiting removes a connection from those without a request.
func (cs *connections) removeWaiting(c *conn) {
	if c.place != nil {
		cs.waiting.Remove(c.place)
		c.place = nil
	}
}

// abortAll closes all connections immediately, and returns their number.
func (cs *connections) abortAll() int {
	cs.mu.Lock()
	all := make([]*conn, 0, len(cs.open))
	for c := range cs.open {
		all = append(all, c)
	}
	cs.mu.Unlock()
	for _, c := range all {
		c.abort()
	}
	return len(all)
}

// count returns the number of open connections, and how many of them count towards the limit.
func (cs *connections) count() (open, unknown int) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open), cs.unknown
}

// wait waits until no connection is open. It returns false if ctx is done or the time limit expires first.
func (cs *connections) wait(ctx context.Context, atMost time.Duration) bool {
	cs.mu.Lock()
	if len(cs.open) == 0 {
		cs.mu.Unlock()
		return true
	}
	if cs.empty == nil {
		cs.empty = make(chan struct{})
	}
	empty := cs.empty
	cs.mu.Unlock()
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-empty:
		return true
	case <-ctx.Done():
		return false
	case <-timer.C:
		return false
	}
}
