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

// readState is the state of the reads of a connection. net/http sets a deadline six times for each request, and reads in the background while
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

// SetReadDeadline sets the read deadline. It is set on the TCP connection only while a read waits.
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

// isInterrupted reports whether net/http wants a waiting read to return at once.
func (r *readState) isInterrupted() bool { return r.wanted.Before(started) && !r.wanted.IsZero() }

// tightenLocked sets the deadline on the TCP connection if it is earlier than the one there.
func (r *readState) tightenLocked(c *timedConn) error {
	if r.wanted.IsZero() || !r.set.IsZero() && !r.wanted.Before(r.set) {
		return nil
	}
	r.set = r.wanted
	return c.Conn.SetReadDeadline(r.wanted)
}

// Read reads until the deadline that was set last, whatever the deadline of the TCP connection is.
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

// beginRead begins a read, unless it is interrupted.
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

// endRead ends a read. It reports whether the read must be repeated because it ended at an old deadline, and sets the new one then.
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

// unwatch begins a request. Nobody waits for the end of its client yet.
func (r *readState) unwatch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alone = true
}

// watch lets net/http watch for the end of the client, or read the next request.
func (r *readState) watch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alone {
		r.alone = false
		r.wake.Broadcast()
	}
}

// await waits until watch is called. It returns false if net/http interrupts its read before that.
func (r *readState) await() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wake.L = &r.mu
	for r.alone && !r.isInterrupted() {
		r.wake.Wait()
	}
	return !r.isInterrupted()
}
