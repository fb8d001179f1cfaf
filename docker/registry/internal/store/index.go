// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"container/list"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// block is the allocation unit of file systems, in bytes.
	block = 4096
	// closeLater is the size from which a file is kept open while it is unlinked. Its blocks are freed on close,
	// without blocking others.
	closeLater = 1 << 20
)

// node is a file or directory of the store. A moved file keeps its node. A removed file keeps it until its last reader
// has closed it.
type node struct {
	path     string // below the root
	dir      bool
	fixed    bool // a directory that is kept when it is empty
	charge   int64
	children int // number of entries of a directory
	open     int // number of open file descriptors
	unlinked bool
	blob     *blob         // the blob to which the file belongs
	link     digest.Digest // target of a link
}

// blobKey identifies a blob by its digest, or another file by its path.
type blobKey struct {
	upstream string
	digest   digest.Digest
	path     string
}

// blob is the unit of eviction: data, and the links to it from all repositories and tags. Any other file is a blob
// without links and digest.
type blob struct {
	key     blobKey
	data    *node // nil if there are only links
	size    int64 // of data
	links   map[*node]struct{}
	charge  int64
	place   *list.Element // in the LRU list; nil while data is open
	relay   bool          // another replica has it, too, so it is evicted before others
	used    time.Time     // last use; the LRU lists are in its order
	touched time.Time     // last use as recorded on disk

	verified time.Time // when this process last verified the bytes on disk; zero means never
	stamp    stamp     // of the verified file
	checking *Growing  // running verification
	cached   *list.Element
}

// stamp detects whether another process has replaced or modified a file. The store itself never does, and records use
// in the access time (see touch).
type stamp struct {
	inode    uint64
	modified int64
}

// stampOf returns the stamp of a file.
func stampOf(fi fs.FileInfo) stamp {
	s := stamp{modified: fi.ModTime().UnixNano()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		s.inode = st.Ino
	}
	return s
}

// stampAt returns the current stamp of a path. After an error, it returns a stamp that matches no file.
func (s *Store) stampAt(p string) stamp {
	fi, err := os.Lstat(s.diskPath(p))
	if err != nil {
		return stamp{}
	}
	return stampOf(fi)
}

// diskPath returns the file system path of a path below the store's root.
func (s *Store) diskPath(p string) string { return filepath.Join(s.opts.Path, p) }

// roundUp returns a size rounded up to whole blocks.
func roundUp(size int64) int64 { return (size + block - 1) / block * block }

// maxCharge returns the maximum charge of a new file, with a block for each parent directory, which may be created or
// grow.
func maxCharge(p string, size int64) int64 {
	return roundUp(size+size/1024) + block*int64(strings.Count(p, "/"))
}

// charge returns the allocated bytes of a file or directory. For a file, it returns at least the size, since some file
// systems allocate lazily or compress.
func charge(fi fs.FileInfo) int64 {
	var c int64
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		c = st.Blocks * 512
	}
	if !fi.IsDir() {
		c = max(c, roundUp(fi.Size()))
	}
	return c
}

// chargeAt returns the current charge of a path, or 0.
func (s *Store) chargeAt(p string) int64 {
	fi, err := os.Lstat(s.diskPath(p))
	if err != nil {
		return 0
	}
	return charge(fi)
}

// setChargeLocked sets the charge of a node.
func (s *Store) setChargeLocked(n *node, c int64) {
	more := c - n.charge
	n.charge = c
	s.used += more
	if n.unlinked {
		s.orphans += more
	}
	if b := n.blob; b != nil {
		b.charge += more
		if b.place != nil {
			s.evictable += more
		}
	}
}

// blobLocked returns the blob with a key. It creates the blob if it does not exist.
func (s *Store) blobLocked(key blobKey) *blob {
	b := s.blobs[key]
	if b == nil {
		b = &blob{key: key, links: map[*node]struct{}{}, touched: s.now()}
		s.blobs[key] = b
		s.orderLocked(b)
	}
	return b
}

// attachLocked adds a file to the blob in its path or content.
func (s *Store) attachLocked(n *node, c content) {
	if c.key.upstream == "" {
		return
	}
	b := s.blobLocked(c.key)
	n.blob = b
	b.charge += n.charge
	if b.place != nil {
		s.evictable += n.charge
	}
	if c.data {
		b.data = n
		s.orderLocked(b)
	} else {
		n.link = c.key.digest
		b.links[n] = struct{}{}
	}
}

// detachLocked removes a file from its blob. It removes a blob without files.
func (s *Store) detachLocked(n *node) {
	b := n.blob
	if b == nil {
		return
	}
	n.blob = nil
	b.charge -= n.charge
	if b.place != nil {
		s.evictable -= n.charge
	}
	if b.data == n {
		b.data, b.size, b.verified, b.stamp = nil, 0, time.Time{}, stamp{}
		s.uncacheLocked(b)
	} else {
		delete(b.links, n)
	}
	if b.data == nil && len(b.links) == 0 && s.blobs[b.key] == b {
		delete(s.blobs, b.key)
	}
	s.orderLocked(b)
}

// retainFDLocked counts a new file descriptor.
func (s *Store) retainFDLocked(n *node) {
	n.open++
	if n.blob != nil {
		s.orderLocked(n.blob)
	}
}

// releaseFD stops counting a file descriptor. The last one of a removed file releases its charge.
func (s *Store) releaseFD(n *node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.open--
	if n.open == 0 && n.unlinked {
		s.setChargeLocked(n, 0)
	}
	if n.blob != nil {
		s.orderLocked(n.blob)
	}
}

// openFile opens a file in the index for reading. The error is fs.ErrNotExist if there is none. The caller closes the
// file and calls releaseFD.
func (s *Store) openFile(p string) (*os.File, *node, error) {
	s.mu.Lock()
	n := s.nodes[p]
	if n == nil || n.dir {
		s.mu.Unlock()
		return nil, nil, fs.ErrNotExist
	}
	s.retainFDLocked(n)
	s.mu.Unlock()
	f, err := openQuietly(s.diskPath(p))
	if err != nil {
		s.releaseFD(n)
		return nil, nil, err
	}
	return f, n, nil
}

// makeParents creates the parent directories of a path. The caller holds tree.
func (s *Store) makeParents(p string, reserved *int64) error {
	dir := path.Dir(p)
	s.mu.Lock()
	n := s.nodes[dir]
	s.mu.Unlock()
	if n != nil {
		if !n.dir {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		return nil
	}
	if err := s.makeParents(dir, reserved); err != nil {
		return err
	}
	err := s.inDirectory(dir, func() error { return os.Mkdir(s.diskPath(dir), 0o770) })
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	s.addNode(&node{path: dir, dir: true}, s.chargeAt(dir), reserved)
	return nil
}

// inDirectory runs a step that needs the directory of a path. If the directory is in the index, but another process has
// removed it, for example to empty the store, inDirectory creates it again and retries the step.
func (s *Store) inDirectory(p string, step func() error) error {
	err := step()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := s.diskPath(path.Dir(p))
	if _, missing := os.Lstat(dir); !errors.Is(missing, fs.ErrNotExist) {
		return err // something else is missing
	}
	s.remade.Do(func() {
		s.log.Warn("Another process has removed directories of the store: creating them again", "path", s.opts.Path)
	})
	if err := os.MkdirAll(dir, 0o770); err != nil {
		return err
	}
	return step()
}

// addNode adds a file or directory at a new path. It charges the node, and the growth of its parent, against what was
// reserved for them. The caller holds tree.
func (s *Store) addNode(n *node, c int64, reserved *int64) {
	up := path.Dir(n.path)
	grown := s.chargeAt(up)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[n.path] = n
	before := s.used
	s.setChargeLocked(n, c)
	parent := s.nodes[up]
	parent.children++
	s.setChargeLocked(parent, grown)
	s.spendLocked(min(max(0, s.used-before), *reserved), reserved)
}

// spendLocked releases the part of a reservation that is now charged to a file.
func (s *Store) spendLocked(n int64, reserved *int64) {
	s.used -= n
	*reserved -= n
	s.peak = max(s.peak, s.used)
}

// removeNode removes a deleted file from the index, and directories that are empty now. The caller holds tree.
func (s *Store) removeNode(n *node) {
	s.mu.Lock()
	s.forgetLocked(n)
	s.mu.Unlock()
	s.prune(path.Dir(n.path))
}

// forgetLocked removes a node from the index. Its blocks stay charged until it is closed.
func (s *Store) forgetLocked(n *node) {
	delete(s.nodes, n.path)
	s.detachLocked(n)
	if n.open == 0 {
		s.setChargeLocked(n, 0)
	}
	n.unlinked = true
	s.orphans += n.charge
	if parent := s.nodes[path.Dir(n.path)]; parent != nil && parent != n {
		parent.children--
	}
}

// prune removes an empty directory, and its parents that become empty. The caller holds tree.
func (s *Store) prune(dir string) {
	for {
		s.mu.Lock()
		n := s.nodes[dir]
		stays := n == nil || !n.dir || n.fixed || n.children > 0
		s.mu.Unlock()
		if stays {
			return
		}
		if err := os.Remove(s.diskPath(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
		s.mu.Lock()
		s.forgetLocked(n)
		s.mu.Unlock()
		dir = path.Dir(dir)
	}
}

// renameNode changes the path and the charge of a file, against what was reserved for it. The caller holds tree.
func (s *Store) renameNode(n *node, to string, c int64, reserved *int64) {
	from := path.Dir(n.path)
	s.mu.Lock()
	s.detachLocked(n)
	n.link = ""
	delete(s.nodes, n.path)
	s.nodes[from].children--
	n.path = to
	s.mu.Unlock()
	s.addNode(n, c, reserved)
	s.prune(from)
}

// unlink removes a file. It returns the freed bytes and a function to call after tree is unlocked. The caller holds
// tree.
func (s *Store) unlink(n *node) (freed int64, finish func(), err error) {
	finish = func() {}
	s.mu.Lock()
	freed = n.charge
	s.mu.Unlock()
	if freed >= closeLater {
		if f, err := openRegular(s.diskPath(n.path), 0); err == nil {
			s.mu.Lock()
			s.retainFDLocked(n)
			s.mu.Unlock()
			finish = func() { _ = f.Close(); s.releaseFD(n) }
		}
	}
	if err := s.fault("remove"); err != nil {
		return 0, finish, err
	}
	if err := os.Remove(s.diskPath(n.path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, finish, err
	}
	s.removeNode(n)
	return freed, finish, nil
}

// take reserves n bytes without evicting anything, and reports whether there was room.
func (s *Store) take(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeLocked(n)
}

func (s *Store) takeLocked(n int64) bool {
	if s.used+n > s.opts.Limit {
		return false
	}
	s.used += n
	s.peak = max(s.peak, s.used)
	return true
}

// release releases reserved bytes.
func (s *Store) release(n int64) {
	s.mu.Lock()
	s.used -= n
	s.mu.Unlock()
}

// drop removes a blob and its links. Open readers can continue. With idle, it does not remove a blob that has readers.
func (s *Store) drop(b *blob, idle bool) (freed int64, dropped bool) {
	s.tree.Lock()
	s.mu.Lock()
	if s.blobs[b.key] != b || idle && b.place == nil {
		s.mu.Unlock()
		s.tree.Unlock()
		return 0, false
	}
	files := make([]*node, 0, 1+len(b.links))
	if b.data != nil { // data first: links without data are removed at the next start
		files = append(files, b.data)
	}
	for n := range b.links {
		files = append(files, n)
	}
	delete(s.blobs, b.key)
	s.uncacheLocked(b)
	s.orderLocked(b)
	s.mu.Unlock()
	var later []func()
	for _, n := range files {
		n, finish, err := s.unlinkOrKeep(n)
		if err != nil {
			s.log.Error("cannot remove a file of the store", "error", err)
		}
		freed += n
		later = append(later, finish)
	}
	s.tree.Unlock()
	for _, finish := range later {
		finish()
	}
	return freed, true
}

// unlinkOrKeep is like unlink, but a file that cannot be removed stays in the index, without a blob.
func (s *Store) unlinkOrKeep(n *node) (int64, func(), error) {
	freed, finish, err := s.unlink(n)
	if err != nil {
		s.mu.Lock()
		s.detachLocked(n)
		s.mu.Unlock()
	}
	return freed, finish, err
}
