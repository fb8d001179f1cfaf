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

// reads bound the reads of a connection. net/http sets a deadline six times for each request, and reads in the background while
// a handler runs, to learn that the client has gone. Most requests are over before either matters, and each costs more than
// all that the handler does.
type reads struct {
	mu      sync.Mutex
	wake    sync.Cond
	wanted  time.Time // the deadline; zero: none
	set     time.Time // that of the connection, which may be an earlier one that is over; zero: none
	running bool      // a read of the connection
	alone   bool      // a handler runs, and nobody waits for the end of its request's context
}

// SetReadDeadline bounds the reads. The connection learns of it from a read that waits.
func (w *wire) SetReadDeadline(t time.Time) error {
	r := &w.reads
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted = t
	if r.takenBack() {
		r.wake.Broadcast()
	}
	if r.running {
		return r.tightenLocked(w)
	}
	return nil
}

// takenBack reports whether net/http wants a read to return at once.
func (r *reads) takenBack() bool { return r.wanted.Before(started) && !r.wanted.IsZero() }

// tightenLocked tells the connection of a deadline that is before the one that it has.
func (r *reads) tightenLocked(w *wire) error {
	if r.wanted.IsZero() || !r.set.IsZero() && !r.wanted.Before(r.set) {
		return nil
	}
	r.set = r.wanted
	return w.Conn.SetReadDeadline(r.wanted)
}

// Read ends at the deadline that was set last, whatever the connection's own is.
func (w *wire) Read(b []byte) (int, error) {
	if err := w.beginRead(); err != nil {
		return 0, err
	}
	for {
		n, err := w.Conn.Read(b)
		if !w.endRead(n == 0 && errors.Is(err, os.ErrDeadlineExceeded)) {
			return n, err
		}
	}
}

func (w *wire) beginRead() error {
	r := &w.reads
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.takenBack() {
		return os.ErrDeadlineExceeded
	}
	r.running = true
	return r.tightenLocked(w)
}

// endRead reports whether a read must begin anew, since the deadline that has ended it is over. The connection has the right
// one then.
func (w *wire) endRead(timedOut bool) (again bool) {
	r := &w.reads
	r.mu.Lock()
	defer r.mu.Unlock()
	if timedOut && !r.wanted.Equal(r.set) {
		r.set = r.wanted
		if w.Conn.SetReadDeadline(r.wanted) == nil {
			return true
		}
	}
	r.running = false
	return false
}

// unwatch begins to serve a request, for whose end nobody waits yet.
func (r *reads) unwatch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alone = true
}

// watch lets net/http look whether the client is still there, or read the next request.
func (r *reads) watch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alone {
		r.alone = false
		r.wake.Broadcast()
	}
}

// await waits until somebody watches, and reports false if net/http takes its read back before.
func (r *reads) await() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wake.L = &r.mu
	for r.alone && !r.takenBack() {
		r.wake.Wait()
	}
	return !r.takenBack()
}
