// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrDigest is returned to readers if the bytes do not match the digest.
	ErrDigest = errors.New("the bytes do not match the digest")
	// ErrShort is returned to readers if the body ended too early.
	ErrShort = errors.New("the body ended too early")
	// ErrLong is returned to readers if the body is longer than announced.
	ErrLong = errors.New("the body is longer than announced")
	// ErrClosed is returned to new readers after the fill has ended. The blob may be in the store by now.
	ErrClosed = errors.New("the fill has ended")
	// ErrPassed is returned to new readers of a fill without room whose window has moved beyond their offset.
	ErrPassed = errors.New("the fill's window has moved on")
	// ErrTooSlow is returned to a reader that was dropped because it delayed a fill without room.
	ErrTooSlow = errors.New("dropped: the reader was slower than the minimum rate and delayed others")
	// ErrNotKept is returned by a commit if the bytes were sent to the readers but not stored.
	ErrNotKept = errors.New("not stored")

	errNoRoom = errors.New("the store has no room within its limit")
)

// measureEvery is the interval, in bytes, at which the allocated blocks of a file of unknown size are measured.
const measureEvery = 8 << 20

// State is the state of a Growing.
type State int

// States of a Growing.
const (
	InProgress State = iota // more bytes will come
	Complete                // all bytes have come, and match the digest
	Failed                  // no more bytes will come
)

// Growing is a blob that is being fetched. It has one writer and many readers.
//
// The blob is written to a file of the store as long as there is room. If there is none, because of the limit or a full
// or broken disk, it continues through a window in memory: the writer waits for the slowest reader, and readers may
// join as long as the window has not moved beyond their offset. Therefore, create the first reader before starting the
// fetch. Without readers, the window moves on by itself.
//
// The caller of Grow must call Finish when the fetch has ended, and Close when no more readers may join. If it is
// closed before distribution has committed the blob, the blob is not stored.
type Growing struct {
	store     *Store
	digest    digest.Digest // empty if unknown; then nothing is withheld
	size      int64         // negative if unknown
	verifying bool          // verification of a stored file, which must not be removed
	unread    bool          // an upload without readers

	writing sync.Mutex // serializes writes
	hash    hash.Hash
	quota   int64 // maximum size of the file if there is no room for the whole blob; 0 means no such limit
	measure int64 // size at which to measure the file's blocks next

	mu         sync.Mutex
	node       *node
	file       *os.File // nil before the first byte and after the last reader
	reserved   int64    // for a file that does not exist yet
	fileEnd    int64    // bytes in the file
	window     *window  // used when there is no room
	discarding bool     // there is neither a file nor a window
	written    int64
	state      State
	err        error
	waiters    map[*waiter]struct{}
	moved      chan struct{} // closed when a reader moves on; nil unless the writer is waiting
	done       chan struct{}
	readers    map[*Reader]struct{}
	closed     bool
	released   bool
}

func (s *Store) newGrowing(d digest.Digest, size int64) *Growing {
	g := &Growing{store: s, digest: d, size: size, readers: map[*Reader]struct{}{}, waiters: map[*waiter]struct{}{}, done: make(chan struct{})}
	if d != "" {
		g.hash = d.Algorithm().Hash()
	}
	return g
}

// Grow returns a Growing for a new fetch of a blob. A negative size means that it is not known yet; see SetSize.
func (u *Upstream) Grow(d digest.Digest, size int64) *Growing {
	if err := d.Validate(); err != nil {
		g := u.store.newGrowing("", size)
		g.end(err)
		return g
	}
	g := u.store.newGrowing(d, -1)
	g.SetSize(size)
	return g
}

// SetSize sets the size of the blob. Call it when the upstream has answered, before the first byte. It reserves room at
// once, by evicting the least recently used blobs. If there is no room, the blob will pass through a window. SetSize
// has no effect if the size is known, bytes have been written, or the fetch has ended.
func (g *Growing) SetSize(size int64) {
	g.writing.Lock()
	defer g.writing.Unlock()
	g.mu.Lock()
	late := size < 0 || g.size >= 0 || g.written > 0 || g.state != InProgress
	if !late {
		g.size = size
	}
	g.mu.Unlock()
	if late || size == 0 {
		return
	}
	need := roundUp(size+size/1024) + block
	if !g.store.reserve(need) {
		g.quota = min(g.store.opts.Limit/16, 8<<20)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reserved = need
}

type growingKey struct{}

// WithGrowing returns a context with which distribution's upload writes into g.
func WithGrowing(ctx context.Context, g *Growing) context.Context {
	return context.WithValue(ctx, growingKey{}, g)
}

// Digest returns the digest that the bytes must match.
func (g *Growing) Digest() digest.Digest { return g.digest }

// Size returns the size of the blob, or a negative number if it is not known.
func (g *Growing) Size() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.size
}

// Written returns the number of bytes written so far.
func (g *Growing) Written() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.written
}

// State returns the state of the fetch, and its error if it failed.
func (g *Growing) State() (State, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, g.err
}

// Done returns a channel that is closed when the state is Complete or Failed.
func (g *Growing) Done() <-chan struct{} { return g.done }

// Windowed reports whether the blob passes through a window without being stored.
func (g *Growing) Windowed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.window != nil || g.discarding
}

// path returns the path of the file, or "" if there is none.
func (g *Growing) path() string {
	g.mu.Lock()
	n := g.node
	g.mu.Unlock()
	if n == nil {
		return ""
	}
	g.store.mu.Lock()
	defer g.store.mu.Unlock()
	return n.path
}

// Write writes the next bytes. Use it if no upload of distribution writes them. It blocks while the window is full.
func (g *Growing) Write(p []byte) (int, error) {
	g.writing.Lock()
	defer g.writing.Unlock()
	return g.write(p)
}

// WriteAt writes bytes at an offset. It skips bytes that have already been written, so that a second fetch continues
// where the first one ended.
func (g *Growing) WriteAt(p []byte, off int64) (int, error) {
	g.writing.Lock()
	defer g.writing.Unlock()
	written := g.Written()
	if off > written {
		return 0, fmt.Errorf("a gap of %d bytes after byte %d", off-written, written)
	}
	skip := min(written-off, int64(len(p)))
	n, err := g.write(p[skip:])
	return int(skip) + n, err
}

// write writes the next bytes. The caller holds writing.
func (g *Growing) write(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	g.mu.Lock()
	state, cause, inFile := g.state, g.err, g.window == nil && !g.discarding
	size, written := g.size, g.written
	g.mu.Unlock()
	switch {
	case state == Failed:
		return 0, cause
	case state == Complete, size >= 0 && written+int64(len(p)) > size:
		g.Finish(ErrLong)
		return 0, ErrLong
	}
	if inFile {
		if n, err = g.writeFile(p); n > 0 {
			g.consume(p[:n], true)
		}
		if err != nil {
			g.spill(err)
		}
	}
	for n < len(p) {
		k, err := g.writeWindow(p[n:])
		if err != nil {
			return n, err
		}
		g.consume(p[n:n+k], false)
		n += k
	}
	if size >= 0 && written+int64(n) == size {
		g.complete()
		if state, err := g.State(); state == Failed {
			return n, err
		}
	}
	return n, nil
}

// consume hashes written bytes and releases them to the readers.
func (g *Growing) consume(p []byte, inFile bool) {
	if g.hash != nil {
		g.hash.Write(p)
	}
	if inFile {
		g.mu.Lock()
		g.fileEnd += int64(len(p))
		g.mu.Unlock()
	}
	g.advance(int64(len(p)))
}

// advance releases n more bytes to the readers.
func (g *Growing) advance(n int64) {
	g.mu.Lock()
	g.written += n
	g.wakeReadersLocked(false)
	g.mu.Unlock()
}

// writeFile writes as many bytes to the file as there is room for. If the disk is full, it evicts blobs first.
func (g *Growing) writeFile(p []byte) (n int, err error) {
	if err := g.create(); err != nil {
		return 0, err
	}
	g.mu.Lock()
	f, node, end := g.file, g.node, g.fileEnd
	g.mu.Unlock()
	upTo := end + int64(len(p))
	if g.quota > 0 && upTo > g.quota || !g.store.extend(node, g.allocated(f, upTo), g.quota == 0) {
		return 0, errNoRoom
	}
	for try := 1; ; try++ {
		k := 0
		if err = g.store.fault("write"); err == nil {
			k, err = f.WriteAt(p[n:], end+int64(n))
		}
		n += k
		if err == nil || try == maxAttempts || !isDiskFull(err) || !g.store.evict(evictAtLeast) {
			return n, err
		}
	}
}

// allocated returns the larger of size and the space allocated for the file: some file systems allocate ahead.
func (g *Growing) allocated(f *os.File, size int64) int64 {
	if g.size >= 0 && g.quota == 0 || size < g.measure {
		return size
	}
	g.measure = size + measureEvery
	if fi, err := f.Stat(); err == nil {
		return max(size, charge(fi))
	}
	return size
}

// create creates the file. It is called before the first byte is written.
func (g *Growing) create() error {
	g.mu.Lock()
	exists, reserved := g.file != nil, g.reserved
	over := g.closed || g.written > 0 // the file has been released
	g.mu.Unlock()
	switch {
	case exists:
		return nil
	case over:
		return ErrClosed
	}
	s := g.store
	if reserved == 0 {
		if reserved = maxCharge(tmpPath+"/x", 0) + block; !s.take(reserved) && (g.quota > 0 || !s.reserve(reserved)) {
			return errNoRoom
		}
	}
	p := fmt.Sprintf("%s/grow-%d", tmpPath, s.serial.Add(1))
	n := &node{path: p}
	var f *os.File
	for try := 1; ; try++ {
		err := s.fault("create")
		s.tree.Lock()
		if err == nil {
			err = s.inDirectory(p, func() (err error) {
				f, err = g.openFile(s.diskPath(p))
				return err
			})
		}
		if err == nil {
			s.addNode(n, reserved-block, &reserved)
		}
		s.tree.Unlock()
		if err == nil {
			s.release(reserved)
			break
		}
		if try == maxAttempts || !isDiskFull(err) || !s.evict(evictAtLeast) {
			s.release(reserved)
			g.mu.Lock()
			g.reserved = 0
			g.mu.Unlock()
			return err
		}
	}
	s.mu.Lock()
	s.retainFDLocked(n)
	s.mu.Unlock()
	g.mu.Lock()
	g.node, g.file, g.reserved = n, f, 0
	g.mu.Unlock()
	return nil
}

// openFile creates the file. If the size is known, it allocates all blocks, so that a full disk is noticed now.
func (g *Growing) openFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o660)
	if err != nil || g.size <= 0 || g.quota > 0 {
		return f, err
	}
	const keepSize = 1
	if err := syscall.Fallocate(int(f.Fd()), keepSize, 0, g.size); isDiskFull(err) {
		return nil, errors.Join(err, f.Close(), os.Remove(name))
	}
	return f, nil
}

// spill stops writing to the file. Readers read what is in the file, and the rest passes through a window.
func (g *Growing) spill(err error) {
	s := g.store
	s.count.unkept.Add(1)
	s.log.Warn("A blob is not stored", "digest", g.digest, "size", g.size, "error", err)
	var w *window
	if !g.unread {
		w = s.newWindow(g.fileEnd)
	}
	g.mu.Lock()
	g.window, g.discarding = w, g.unread
	n, reserved := g.node, g.reserved
	g.reserved = 0
	g.mu.Unlock()
	s.release(reserved)
	if n != nil {
		s.removeFile(n)
	}
	if g.unread {
		g.mu.Lock()
		g.releaseFileLocked()
		g.mu.Unlock()
	}
}

// removeFile removes a file that may be open. It stays charged until it is closed.
func (s *Store) removeFile(n *node) {
	s.tree.Lock()
	defer s.tree.Unlock()
	s.mu.Lock()
	known, p := s.nodes[n.path] == n, n.path
	s.mu.Unlock()
	if !known {
		return
	}
	if c := s.chargeAt(p); c > 0 {
		s.mu.Lock()
		s.setChargeLocked(n, c)
		s.mu.Unlock()
	}
	if _, finish, err := s.unlinkOrKeep(n); err != nil {
		s.log.Error("Cannot remove a file from the store", "error", err)
	} else {
		finish()
	}
}

// complete verifies the digest after the last byte and ends the fetch.
func (g *Growing) complete() {
	var err error
	if g.hash != nil && string(g.hash.Sum(nil)) != string(rawDigest(g.digest)) {
		if err = ErrDigest; g.verifying {
			err = ErrCorrupt
		}
	}
	g.mu.Lock()
	if g.size < 0 {
		g.size = g.written
	}
	g.mu.Unlock()
	g.end(err)
}

// rawDigest returns the bytes of a valid digest.
func rawDigest(d digest.Digest) []byte {
	raw, _ := hex.DecodeString(d.Encoded())
	return raw
}

// end sets the final state.
func (g *Growing) end(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state != InProgress {
		return
	}
	g.state, g.err = Complete, err
	if err != nil {
		g.state = Failed
	}
	close(g.done)
	g.wakeReadersLocked(true)
	g.wakeWriterLocked()
}

// Finish ends the fetch, with an error if it failed. It has no effect if all bytes have come.
func (g *Growing) Finish(err error) {
	if err != nil {
		g.end(err)
		return
	}
	g.writing.Lock()
	defer g.writing.Unlock()
	g.mu.Lock()
	size, written := g.size, g.written
	g.mu.Unlock()
	if size >= 0 && written < size {
		g.end(ErrShort)
		return
	}
	if st, _ := g.State(); st == InProgress {
		g.complete()
	}
}

// Keep stores the blob under its digest and links it to a repository. Use it if no upload of distribution does so. It
// returns ErrNotKept for a blob that passed through a window, and for a digest that is not sha256.
func (g *Growing) Keep(u *Upstream, repository string) error {
	if st, err := g.State(); st != Complete {
		return errors.Join(ErrNotKept, err)
	}
	if g.Windowed() || u.store != g.store || g.digest.Algorithm() != digest.Canonical {
		return ErrNotKept
	}
	link := reposDir + repository + "/_layers/" + string(digest.Canonical) + "/" + g.digest.Encoded() + "/link"
	if err := u.checkPath(link, false); err != nil {
		return err
	}
	if err := g.sync(); err != nil {
		return err
	}
	if b, _ := u.blobOf(dataPath(g.digest)); b == nil {
		if err := u.store.move(g.path(), u.path(dataPath(g.digest))); err != nil {
			return err
		}
	}
	return u.PutContent(context.Background(), link, []byte(g.digest))
}

// Close rejects new readers. A fetch that has not ended fails. Existing readers can continue, and the last of them
// releases the file.
func (g *Growing) Close() {
	g.end(ErrClosed)
	g.writing.Lock() // a running write gets an error
	defer g.writing.Unlock()
	g.mu.Lock()
	g.closed = true
	n, reserved := g.node, g.reserved
	g.reserved = 0
	g.releaseLocked()
	g.mu.Unlock()
	g.store.release(reserved)
	if n != nil && !g.verifying {
		g.store.mu.Lock()
		unplaced := strings.HasPrefix(n.path, tmpPath+"/")
		g.store.mu.Unlock()
		if unplaced {
			g.store.removeFile(n)
		}
	}
}

// releaseLocked closes the file if there are no readers.
func (g *Growing) releaseLocked() {
	if g.closed && len(g.readers) == 0 && !g.released {
		g.released = true
		g.releaseFileLocked()
		if g.window != nil {
			g.store.windowClosed(g.window)
		}
	}
}

// releaseFileLocked closes the file.
func (g *Growing) releaseFileLocked() {
	if g.file == nil {
		if g.node != nil && g.verifying {
			g.store.releaseFD(g.node) // the file could not be opened
			g.node = nil
		}
		return
	}
	_ = g.file.Close()
	g.file = nil
	g.store.releaseFD(g.node)
}

// sync flushes the file to disk, and charges it with its allocated blocks.
func (g *Growing) sync() error {
	if err := g.create(); err != nil { // an empty blob
		return err
	}
	g.mu.Lock()
	f, n := g.file, g.node
	g.mu.Unlock()
	if err := g.store.fault("fsync"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	g.store.mu.Lock()
	g.store.setChargeLocked(n, charge(fi))
	g.store.mu.Unlock()
	return nil
}
