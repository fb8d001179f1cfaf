// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// batch is how many new bytes wake a reader at once, and pause is how long fewer bytes may wait for more.
	batch = 256 << 10
	pause = 5 * time.Millisecond
	// copySize is the buffer size for copying from a window, in bytes.
	copySize = 64 << 10
)

var buffers = sync.Pool{New: func() any { b := make([]byte, copySize); return &b }}

// Reader reads a Growing while it is written. It must be used by one goroutine only.
type Reader struct {
	g    *Growing
	ctx  context.Context
	off  int64    // offset of the next read
	file *os.File // separate descriptor, since sendfile uses its offset
	err  error
	read bool // bytes have been read

	// Guarded by g.mu.
	pos        int64 // offset for which the writer of a window waits
	dropped    bool
	closed     bool
	watched    time.Time
	watchedPos int64
}

// NewReader returns a reader that starts at an offset. The error is ErrClosed or ErrPassed if it is called too late.
func (g *Growing) NewReader(ctx context.Context, off int64) (*Reader, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.released || g.closed && len(g.readers) == 0 {
		return nil, ErrClosed
	}
	if g.passedLocked(off) {
		return nil, ErrPassed
	}
	r := &Reader{g: g, ctx: ctx, off: off, pos: off}
	g.readers[r] = struct{}{}
	g.store.count.readers.Add(1)
	return r, nil
}

// passedLocked reports whether the window has moved beyond an offset.
func (g *Growing) passedLocked(off int64) bool {
	return g.window != nil && g.window.low > g.fileEnd && off < g.window.low
}

// limitLocked returns the offset up to which bytes may be read. It excludes the last bytes until the digest has been
// verified.
func (g *Growing) limitLocked() int64 {
	if g.state == Complete || g.digest == "" {
		return g.written
	}
	if g.size >= 0 {
		return min(g.written, max(0, g.size-g.store.opts.Hold))
	}
	return max(0, g.written-g.store.opts.Hold)
}

// wait waits until want bytes can be read at the reader's offset, and returns the offset up to which bytes can be read.
// It returns early with fewer bytes after a short pause.
func (r *Reader) wait(want int64) (end int64, err error) {
	g := r.g
	patient := r.read // return the first bytes at once
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		if err := r.syncLocked(); err != nil {
			return 0, err
		}
		enough := int64(batch)
		if g.window != nil {
			enough = int64(len(g.window.buf)) / 4
		}
		end, over := g.limitLocked(), g.state != InProgress
		switch {
		case end > r.off && (over || !patient || end >= min(want, r.off+enough)):
			return end, nil
		case over && g.err == nil:
			return 0, io.EOF
		case over:
			return 0, g.err
		case end > r.off:
			if err := r.waitLocked(min(want, r.off+enough), pause); err != nil {
				return 0, err
			}
			patient = false
		default:
			if err := r.waitLocked(r.off+1, 0); err != nil {
				return 0, err
			}
		}
	}
}

// waiter is a reader waiting until bytes can be read up to an offset.
type waiter struct {
	upTo  int64
	ready chan struct{}
}

// waitLocked waits until bytes can be read up to an offset, or the fetch has ended, or atMost has passed. If atMost is
// 0, there is no time limit.
func (r *Reader) waitLocked(upTo int64, atMost time.Duration) error {
	g := r.g
	w := &waiter{upTo, make(chan struct{})}
	g.waiters[w] = struct{}{}
	g.mu.Unlock()
	var timeout <-chan time.Time
	if atMost > 0 {
		t := time.NewTimer(atMost)
		defer t.Stop()
		timeout = t.C
	}
	var err error
	select {
	case <-w.ready:
	case <-timeout:
	case <-r.ctx.Done():
		err = r.ctx.Err()
	}
	g.mu.Lock()
	delete(g.waiters, w)
	return err
}

// wakeReadersLocked wakes the readers whose bytes have come, or all readers.
func (g *Growing) wakeReadersLocked(all bool) {
	limit := g.limitLocked()
	for w := range g.waiters {
		if all || limit >= w.upTo {
			close(w.ready)
			delete(g.waiters, w)
		}
	}
}

// syncLocked moves the reader's position to its offset. It returns an error if the reader was dropped or the window has
// moved beyond the offset.
func (r *Reader) syncLocked() error {
	g := r.g
	switch {
	case r.closed:
		return os.ErrClosed
	case r.dropped:
		return ErrTooSlow
	case r.off == r.pos:
		return nil
	case r.off < r.pos && g.passedLocked(r.off):
		return ErrPassed
	}
	r.pos = r.off
	if g.window != nil {
		if r.pos >= g.window.high {
			r.watched = time.Time{}
		}
		g.wakeWriterLocked()
	}
	return nil
}

// advance moves the offset by n bytes that were read. It returns an error if they may be wrong because the reader was
// dropped.
func (r *Reader) advance(n int64) error {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	r.read = true
	if r.dropped {
		return ErrTooSlow
	}
	r.off += n
	err := r.syncLocked()
	if r.g.window != nil && r.file != nil && r.off >= r.g.fileEnd {
		r.closeFile()
	}
	return err
}

// openFile returns the reader's file descriptor, and how many bytes from the reader's offset up to end are in the file.
func (r *Reader) openFile(end int64) (*os.File, int64, error) {
	g := r.g
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(end, g.fileEnd) - r.off
	if n <= 0 {
		return nil, 0, nil
	}
	if r.file == nil {
		if g.file == nil {
			return nil, 0, ErrPassed
		}
		name := fmt.Sprintf("/proc/self/fd/%d", g.file.Fd())
		f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOATIME, 0)
		if errors.Is(err, fs.ErrPermission) { // the file belongs to another user
			f, err = os.Open(name)
		}
		if err != nil {
			return nil, 0, err
		}
		r.file = f
		g.store.mu.Lock()
		g.store.retainFDLocked(g.node)
		g.store.mu.Unlock()
	}
	return r.file, n, nil
}

// closeFile closes the reader's file descriptor.
func (r *Reader) closeFile() {
	_ = r.file.Close()
	r.file = nil
	r.g.store.releaseFD(r.g.node)
}

// window copies bytes from the window.
func (r *Reader) window(p []byte, end int64) (int, error) {
	g := r.g
	g.mu.Lock()
	if r.dropped || g.window == nil || r.off < g.window.low {
		g.mu.Unlock()
		return 0, ErrTooSlow
	}
	n := g.window.get(p, r.off, end)
	g.mu.Unlock()
	return n, nil
}

// Read waits for bytes and reads them. It returns io.EOF only if the digest matches.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.readSome(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// readSome waits for bytes and reads them.
func (r *Reader) readSome(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	end, err := r.wait(r.off + int64(len(p)))
	if err != nil {
		return 0, err
	}
	f, k, err := r.openFile(end)
	var n int
	switch {
	case err != nil:
		return 0, err
	case f != nil:
		n, err = f.ReadAt(p[:min(int64(len(p)), k)], r.off)
	default:
		n, err = r.window(p, end)
	}
	if err != nil {
		return 0, err
	}
	return n, r.advance(int64(n))
}

// CopyN writes the next n bytes to w as they come, with sendfile if w supports it. It returns an error if there are
// fewer.
func (r *Reader) CopyN(w io.Writer, n int64) (copied int64, err error) {
	flusher, _ := w.(http.Flusher)
	for copied < n && err == nil {
		var k int64
		k, err = r.copySome(w, n-copied)
		copied += k
		if flusher != nil && k > 0 && err == nil {
			flusher.Flush()
		}
	}
	if err != nil {
		r.err = err
	}
	return copied, err
}

// copySome waits for at most n bytes and copies them.
func (r *Reader) copySome(w io.Writer, n int64) (int64, error) {
	end, err := r.wait(r.off + n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, err
	}
	end = min(end, r.off+n)
	f, k, err := r.openFile(end)
	if err != nil {
		return 0, err
	}
	if f != nil {
		if _, err := f.Seek(r.off, io.SeekStart); err != nil {
			return 0, err
		}
		k, err := io.CopyN(w, f, k)
		return k, errors.Join(err, r.advance(k))
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	got, err := r.window(*buf, end)
	if err != nil {
		return 0, err
	}
	m, err := w.Write((*buf)[:got])
	return int64(m), errors.Join(err, r.advance(int64(m)))
}

// Seek sets the offset of the next Read. io.SeekEnd requires a known size. A window keeps the bytes at the old offset
// until the next Read.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		size := r.g.Size()
		if size < 0 {
			return 0, errors.New("the size is not known yet")
		}
		offset += size
	}
	if offset < 0 {
		return 0, errors.New("negative offset")
	}
	r.off = offset
	return offset, nil
}

// Close removes the reader from the Growing.
func (r *Reader) Close() error {
	g := r.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	delete(g.readers, r)
	if r.file != nil {
		r.closeFile()
	}
	g.store.count.readers.Add(-1)
	g.wakeWriterLocked()
	g.releaseLocked()
	return nil
}
