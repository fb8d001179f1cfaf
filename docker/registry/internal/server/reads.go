// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"errors"
	"os"
	"sync"
	"time"
)

// started is earlier than every deadline but the one with which net/http interrupts a waiting read.
var started = time.Now()

// readState tracks the reads of a connection. For each request, net/http sets six deadlines and reads in the background
// to detect that the client has disconnected. Most requests finish before either matters, and each of the two costs
// more than the handler itself.
type readState struct {
	mu      sync.Mutex
	wake    sync.Cond
	wanted  time.Time // deadline set by net/http; zero: none
	set     time.Time // deadline of the TCP connection, which may be an earlier one; zero: none
	running bool      // a read of the TCP connection is running
	alone   bool      // a handler is running, and nothing waits for the end of its request's context
}

// SetReadDeadline sets the read deadline. It sets the deadline of the TCP connection only while a read is waiting.
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

// tightenLocked sets the deadline of the TCP connection unless that is already earlier.
func (r *readState) tightenLocked(c *timedConn) error {
	if r.wanted.IsZero() || !r.set.IsZero() && !r.wanted.Before(r.set) {
		return nil
	}
	r.set = r.wanted
	return c.Conn.SetReadDeadline(r.wanted)
}

// Read reads until the deadline that was set last, even if the TCP connection still has an earlier one.
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

// beginRead starts a read, or returns an error if net/http has interrupted it.
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

// endRead ends a read. If the read timed out at an old deadline, endRead sets the new one and reports that the read
// must be retried.
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

// unwatch makes background reads wait, since a request has begun and nothing waits for its client to disconnect yet.
func (r *readState) unwatch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alone = true
}

// watch lets net/http watch for a client that disconnects, or read the next request.
func (r *readState) watch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alone {
		r.alone = false
		r.wake.Broadcast()
	}
}

// await waits until watch is called. It returns false if net/http interrupts its read first.
func (r *readState) await() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wake.L = &r.mu
	for r.alone && !r.isInterrupted() {
		r.wake.Wait()
	}
	return !r.isInterrupted()
}
