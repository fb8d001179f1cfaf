// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// connections knows every open connection, and bounds those that have shown no good credential.
//
// When they are as many as the limit, a new one takes the place of the one that has been without a request for longest,
// so that a client that speaks at once is served whoever else holds connections. Those with a request that is being
// answered keep their place: up to as many again are let in beside them.
type connections struct {
	limit   int
	observe func(Event)

	mu      sync.Mutex
	open    map[*conn]struct{}
	unknown int           // of the open ones: without a good credential
	waiting *list.List    // of the unknown ones: without a request, longest first
	empty   chan struct{} // closed once none is open; nil while nobody waits
}

func newConnections(limit int, observe func(Event)) *connections {
	return &connections{limit: limit, observe: observe, open: map[*conn]struct{}{}, waiting: list.New()}
}

// add takes a new connection, and reports whether there is room for it.
func (cs *connections) add(c *conn) bool {
	cs.mu.Lock()
	var dropped *conn
	if cs.unknown >= cs.limit {
		if oldest := cs.waiting.Front(); oldest != nil {
			dropped = oldest.Value.(*conn)
			cs.forget(dropped)
		}
	}
	fits := cs.unknown < 2*cs.limit
	if fits {
		cs.open[c] = struct{}{}
		cs.unknown++
		c.place = cs.waiting.PushBack(c)
	}
	cs.mu.Unlock()
	if dropped != nil {
		dropped.cut()
		cs.observe(ConnectionDropped)
	}
	if !fits {
		cs.observe(ConnectionRefused)
	}
	return fits
}

// busy notes that a connection has a request.
func (cs *connections) busy(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.unlist(c)
}

// idle notes that a connection waits for its next request, or only for its end.
func (cs *connections) idle(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if _, open := cs.open[c]; open && !c.known && !c.dropped && c.place == nil {
		c.place = cs.waiting.PushBack(c)
	}
}

// authenticated takes a connection out of the limit, for good.
func (cs *connections) authenticated(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if _, open := cs.open[c]; open && !c.known && !c.dropped {
		cs.unlist(c)
		c.known = true
		cs.unknown--
	}
}

// closed notes that nothing runs for a connection any more.
func (cs *connections) closed(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if _, open := cs.open[c]; !open {
		return
	}
	cs.forget(c)
	delete(cs.open, c)
	if len(cs.open) == 0 && cs.empty != nil {
		close(cs.empty)
		cs.empty = nil
	}
}

// forget ends the part that a connection has in the limit. It stays open until its goroutine has ended.
func (cs *connections) forget(c *conn) {
	cs.unlist(c)
	if !c.known && !c.dropped {
		c.dropped = true
		cs.unknown--
	}
}

func (cs *connections) unlist(c *conn) {
	if c.place != nil {
		cs.waiting.Remove(c.place)
		c.place = nil
	}
}

// cut closes all connections at once, and returns how many.
func (cs *connections) cut() int {
	cs.mu.Lock()
	all := make([]*conn, 0, len(cs.open))
	for c := range cs.open {
		all = append(all, c)
	}
	cs.mu.Unlock()
	for _, c := range all {
		c.cut()
	}
	return len(all)
}

// count returns how many connections are open, and how many of them count to the limit.
func (cs *connections) count() (open, unknown int) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open), cs.unknown
}

// wait returns true once no connection is open, false when ctx ends or the time is over before that.
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
