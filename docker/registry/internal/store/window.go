// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"time"
)

const (
	// windowsTotal is the total size of all windows, in bytes, above which new windows are smaller.
	windowsTotal = 24 << 20
	// windowLeast is the size of these smaller windows, in bytes.
	windowLeast = 64 << 10
)

// window is a ring buffer with the last bytes of a fill without room, at the offsets from low to high.
type window struct {
	buf       []byte
	low, high int64
}

// newWindow returns a window that starts at an offset.
func (s *Store) newWindow(at int64) *window {
	s.count.windows.Add(1)
	size := s.opts.Window
	s.mu.Lock()
	if s.windows+size > windowsTotal {
		size = min(size, windowLeast)
	}
	s.windows += size
	s.mu.Unlock()
	return &window{buf: make([]byte, size), low: at, high: at}
}

// windowClosed releases the memory of a window.
func (s *Store) windowClosed(w *window) {
	s.mu.Lock()
	s.windows -= int64(len(w.buf))
	s.mu.Unlock()
}

// put copies as many bytes into the window as fit, and returns their number.
func (w *window) put(p []byte) int {
	size := int64(len(w.buf))
	p = p[:min(int64(len(p)), size-(w.high-w.low))]
	at := w.high % size
	n := copy(w.buf[at:], p)
	copy(w.buf, p[n:])
	w.high += int64(len(p))
	return len(p)
}

// get copies bytes at an offset from the window.
func (w *window) get(p []byte, off, end int64) int {
	size := int64(len(w.buf))
	p = p[:min(int64(len(p)), end-off)]
	n := copy(p, w.buf[off%size:])
	copy(p[n:], w.buf)
	return len(p)
}

// writeWindow writes bytes into the window, and waits for the slowest reader while it is full.
func (g *Growing) writeWindow(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.discarding {
		return len(p), nil
	}
	for {
		if g.state != InProgress {
			return 0, g.err
		}
		w := g.window
		size := int64(len(w.buf))
		// Keep bytes as long as possible, so that new readers can still join.
		w.low = max(w.low, min(w.high+min(int64(len(p)), size)-size, g.slowestLocked()))
		if w.low > g.fileEnd && g.file != nil {
			g.releaseFileLocked()
		}
		if n := w.put(p); n > 0 {
			return n, nil
		}
		g.dropSlowLocked()
		g.waitForReadersLocked(min(g.store.opts.Patience, time.Second))
	}
}

// slowestLocked returns the offset of the slowest reader.
func (g *Growing) slowestLocked() int64 {
	low := g.window.high
	for r := range g.readers {
		low = min(low, r.pos)
	}
	return low
}

// waitForReadersLocked waits until a reader has moved on, or atMost has passed.
func (g *Growing) waitForReadersLocked(atMost time.Duration) {
	moved := make(chan struct{})
	g.moved = moved
	g.mu.Unlock()
	t := time.NewTimer(atMost)
	select {
	case <-moved:
	case <-t.C:
	}
	t.Stop()
	g.mu.Lock()
}

// wakeWriterLocked wakes the writer, which waits for readers.
func (g *Growing) wakeWriterLocked() {
	if g.moved != nil {
		close(g.moved)
		g.moved = nil
	}
}

// dropSlowLocked drops readers that are behind and have been slower than Options.MinRate for Options.Patience. It
// checks all readers, not only the slowest, so that several stalled readers delay the writer no longer than one.
func (g *Growing) dropSlowLocked() {
	now := time.Now()
	for r := range g.readers {
		if r.pos >= g.window.high { // it has read everything
			continue
		}
		if r.watched.IsZero() {
			r.watched, r.watchedPos = now, r.pos
			continue
		}
		watched := now.Sub(r.watched)
		if watched < g.store.opts.Patience {
			continue
		}
		if float64(r.pos-r.watchedPos) < watched.Seconds()*float64(g.store.opts.MinRate) {
			r.dropped = true
			delete(g.readers, r)
			g.store.count.slow.Add(1)
			g.wakeReadersLocked(true)
			continue
		}
		r.watched, r.watchedPos = now, r.pos
	}
}
