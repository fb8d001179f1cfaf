// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"errors"
	"os"
	"sync"
	"time"
)

// started is before every deadline but the one by which net/http takes back a read that waits.
var started = time.Now()

// readState bound the reads of a connection. net/http sets a deadline six times for each request, and reads in the background while
// a handler runs, to learn that the client has gone. Most requests are over before either matters, and each costs more than
// all that the handler does.
type readState struct {
	mu      sync.Mutex
	wake    sync.Cond
	wanted  time.Time // the deadline; zero: none
	set     time.Time // that of the connection, which may be an earlier one that is over; zero: none
	running bool      // a read of the connection
	alone   bool      // a handler runs, and nobody waits for the end of its request's context
}

// SetReadDeadline bounds the reads. The connection learns of it from a read that waits.
func (c *timedConn) SetReadDeadline(t time.Time) error {
	r := &c.reads
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted = t
	if r.isInterrupted() {
		r.wake.Broadcast()
	}
	if r.running {
		return r.tightenLocked(c)
	}
	return nil
}

// isInterrupted reports whether net/http wants a read to return at once.
func (r *readState) isInterrupted() bool { return r.wanted.Before(started) && !r.wanted.IsZero() }

// tightenLocked tells the connection of a deadline that is before the one that it has.
func (r *readState) tightenLocked(c *timedConn) error {
	if r.wanted.IsZero() || !r.set.IsZero() && !r.wanted.Before(r.set) {
		return nil
	}
	r.set = r.wanted
	return c.Conn.SetReadDeadline(r.wanted)
}

// Read ends at the deadline that was set last, whatever the connection's own is.
func (c *timedConn) Read(b []byte) (int, error) {
	if err := c.beginRead(); err != nil {
		return 0, err
	}
	for {
		n, err := c.Conn.Read(b)
		if !c.endRead(n == 0 && errors.Is(err, os.ErrDeadlineExceeded)) {
			return n, err
		}
	}
}

func (c *timedConn) beginRead() error {
	r := &c.reads
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isInterrupted() {
		return os.ErrDeadlineExceeded
	}
	r.running = true
	return r.tightenLocked(c)
}

// endRead reports whether a read must begin anew, since the deadline that has ended it is over. The connection has the right
// one then.
func (c *timedConn) endRead(timedOut bool) (again bool) {
	r := &c.reads
	r.mu.Lock()
	defer r.mu.Unlock()
	if timedOut && !r.wanted.Equal(r.set) {
		r.set = r.wanted
		if c.Conn.SetReadDeadline(r.wanted) == nil {
			return true
		}
	}
	r.running = false
	return false
}

// unwatch begins to serve a request, for whose end nobody waits yet.
func (r *readState) unwatch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alone = true
}

// watch lets net/http look whether the client is still there, or read the next request.
func (r *readState) watch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alone {
		r.alone = false
		r.wake.Broadcast()
	}
}

// await waits until somebody watches, and reports false if net/http takes its read back before.
func (r *readState) await() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wake.L = &r.mu
	for r.alone && !r.isInterrupted() {
		r.wake.Wait()
	}
	return !r.isInterrupted()
}
