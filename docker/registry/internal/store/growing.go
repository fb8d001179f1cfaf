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
	// ErrDigest is what readers get if the bytes do not have the digest.
	ErrDigest = errors.New("the bytes do not have the digest")
	// ErrShort is what readers get if the body ended too early.
	ErrShort = errors.New("the body ended too early")
	// ErrLong is what readers get if the body has more bytes than were announced.
	ErrLong = errors.New("the body is longer than announced")
	// ErrClosed is returned to a reader that comes too late. The blob may be in the store by now.
	ErrClosed = errors.New("the fill is over")
	// ErrPassed is returned to a reader that comes too late for a fill without room, whose first bytes are gone.
	ErrPassed = errors.New("the fill's window has passed")
	// ErrTooSlow is what a reader gets if it held up a fill without room at less than the minimum rate.
	ErrTooSlow = errors.New("dropped: the reader held up others below the minimum rate")
	// ErrNotKept is what a commit returns when the bytes were passed on and not stored.
	ErrNotKept = errors.New("not kept")

	errNoRoom = errors.New("no room below the limit")
)

// measureEvery is after how many bytes of an unknown size the file's blocks are looked at.
const measureEvery = 8 << 20

// State is the state of a Growing.
type State int

// The states of a Growing.
const (
	InProgress State = iota // bytes are still to come
	Complete                // all bytes are there, and the digest is right
	Failed                  // no more bytes will come
)

// Growing is a blob that is being fetched. One writes, many read.
//
// It grows in a file of the store as long as there is room. Without room (the limit, a full or broken disk) it goes on
// through a window in memory: the writer then waits for the slowest reader, and readers may join as long as nothing has
// left the window. So a fill's first reader is made before the fetch begins. Without readers a window moves on by itself.
//
// The one who called Grow calls Finish when the fetch has ended, and Close when no more readers shall join. Closed before
// distribution has committed, a blob is not kept.
type Growing struct {
	store     *Store
	digest    digest.Digest // empty: unknown, nothing is withheld
	size      int64         // below 0: unknown
	verifying bool          // a verification: the file is not this one's to remove
	unread    bool          // an upload that nobody reads

	writing sync.Mutex // one write at a time
	hash    hash.Hash
	quota   int64 // up to which size the file may grow without room for the whole (0: no such bound)
	measure int64 // the size at which to look at the file's blocks next

	mu         sync.Mutex
	node       *node
	file       *os.File // nil before the first byte, and after the last reader
	reserved   int64    // for a file that is not there yet
	fileEnd    int64    // bytes in the file
	window     *window  // where it goes on without room
	discarding bool     // it goes on nowhere
	written    int64
	state      State
	err        error
	waiters    map[*waiter]struct{}
	moved      chan struct{} // closed when a reader moved on; nil when the writer does not wait
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

// Grow returns a Growing for a new fetch of a blob. The size is below 0 if it is not known yet; see SetSize.
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

// SetSize sets the size of the blob. It is called when the upstream has answered and before the first byte. Room is reserved at
// once, by evicting the least recently used blobs. If there is no room, the blob will pass through a window. SetSize changes
// nothing once the size is known, bytes have come, or the fetch has ended.
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

// WithGrowing returns a context that makes distribution's upload write into g.
func WithGrowing(ctx context.Context, g *Growing) context.Context {
	return context.WithValue(ctx, growingKey{}, g)
}

// Digest returns the digest that the bytes must have.
func (g *Growing) Digest() digest.Digest { return g.digest }

// Size returns the size of the blob, or a number below 0 if it is not known.
func (g *Growing) Size() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.size
}

// Written returns how many bytes have come.
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

// Windowed reports whether the blob is passed on without being kept.
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

// Write writes the next bytes. It is used if no upload of distribution writes them. It waits while there is no room.
func (g *Growing) Write(p []byte) (int, error) {
	g.writing.Lock()
	defer g.writing.Unlock()
	return g.write(p)
}

// WriteAt writes bytes at an offset. It skips bytes that are there already, so that a second fetch goes on where the first one
// ended.
func (g *Growing) WriteAt(p []byte, off int64) (int, error) {
	g.writing.Lock()
	defer g.writing.Unlock()
	written := g.Written()
	if off > written {
		return 0, fmt.Errorf("a gap: %d bytes are there, %d were skipped", written, off-written)
	}
	skip := min(written-off, int64(len(p)))
	n, err := g.write(p[skip:])
	return int(skip) + n, err
}

// write writes the next bytes. It is called with writing locked.
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

// consume hashes bytes that were written and releases them to the readers.
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

// writeFile writes to the file as much as there is room for. On a full disk it makes room first.
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

// allocated returns a size, or the space that the file takes already if that is more: some file systems allocate ahead.
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

// create creates the file when the first byte comes.
func (g *Growing) create() error {
	g.mu.Lock()
	exists, reserved := g.file != nil, g.reserved
	over := g.closed || g.written > 0 // and the file was let go
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

// openFile creates the file, with all of its blocks if the size is known, so that a full disk is noticed now.
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

// spill gives up the file. Readers read what is in it to the end, and the rest goes through a window.
func (g *Growing) spill(err error) {
	s := g.store
	s.count.unkept.Add(1)
	s.log.Warn("passed on, not kept", "digest", g.digest, "size", g.size, "error", err)
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

// removeFile removes a file that may be open. It is charged until it is closed.
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
		s.log.Error("cannot remove a file of the store", "error", err)
	} else {
		finish()
	}
}

// complete ends a fetch after its last byte.
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

// Finish ends the fetch, with an error if it failed. It changes nothing if all bytes have come.
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

// Keep stores the blob under its digest and links it to a repository. It is used if no upload of distribution does so. It returns
// ErrNotKept for a blob that passed through a window, and for other algorithms than sha256, under which nothing is stored.
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

// Close rejects new readers. A fetch that has not ended fails. Existing readers read on, and the last of them frees the file.
func (g *Growing) Close() {
	g.end(ErrClosed)
	g.writing.Lock() // a write that still runs gets an error
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

// releaseLocked closes the file when no reader is left.
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
			g.store.releaseFD(g.node) // its file could not be opened
			g.node = nil
		}
		return
	}
	_ = g.file.Close()
	g.file = nil
	g.store.releaseFD(g.node)
}

// sync waits until the file is on the disk, and charges it with the space that it takes there.
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
