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
	// block is the unit in which file systems give out space.
	block = 4096
	// closeLater is from which size a file is unlinked while it is held open, so that freeing its blocks, which is slow,
	// holds up nobody.
	closeLater = 1 << 20
)

// node is a file or directory of the store. A file keeps its node when it is moved, and until its last reader has
// closed it when it is removed.
type node struct {
	path     string // below the root
	dir      bool
	fixed    bool // a directory that stays when it is empty
	charge   int64
	children int // of a directory
	open     int // file descriptors
	unlinked bool
	blob     *blob         // with which the file is dropped
	link     digest.Digest // what a link says
}

// blobKey names a blob by its digest, or any other file by its path.
type blobKey struct {
	upstream string
	digest   digest.Digest
	path     string
}

// blob is what is dropped together: data, and the links of all repositories and tags to it. Another file is a blob
// without links and digest.
type blob struct {
	key     blobKey
	data    *node // nil when there are links only
	size    int64 // of data
	links   map[*node]struct{}
	charge  int64
	place   *list.Element // in the order of use; nil while data is open
	relay   bool          // another replica has it too: dropped before what is not
	touched time.Time

	verified time.Time // when the bytes on the disk were last found right by this process; zero: never
	stamp    stamp     // of the file that was found right
	checking *Growing  // the verification that runs
	cached   *list.Element
}

// stamp tells a file from another in its place, and from itself after somebody has written to it. The store does neither, and
// keeps the time of use aside (see touch).
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

// stampAt returns the current stamp of a path, or one that fits no file if there is an error.
func (s *Store) stampAt(p string) stamp {
	fi, err := os.Lstat(s.diskPath(p))
	if err != nil {
		return stamp{}
	}
	return stampOf(fi)
}

// diskPath returns the path on the disk of a path below the store's root.
func (s *Store) diskPath(p string) string { return filepath.Join(s.opts.Path, p) }

// roundUp returns a size rounded up to whole blocks.
func roundUp(size int64) int64 { return (size + block - 1) / block * block }

// maxCharge returns the most that a new file may be charged, with a block for each directory above it, which may be new or grow.
func maxCharge(p string, size int64) int64 {
	return roundUp(size+size/1024) + block*int64(strings.Count(p, "/"))
}

// charge returns the bytes of the blocks that a file or directory uses. It is at least the size of a file, since some file systems
// allocate later or compress.
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

// blobLocked returns the blob of a key, and creates it if it is new.
func (s *Store) blobLocked(key blobKey) *blob {
	b := s.blobs[key]
	if b == nil {
		b = &blob{key: key, links: map[*node]struct{}{}, touched: s.now()}
		s.blobs[key] = b
		s.orderLocked(b)
	}
	return b
}

// attachLocked adds a file to the blob that its path or content names.
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

// detachLocked removes a file from its blob, and the blob if nothing is left of it.
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

// retainFDLocked counts one more file descriptor.
func (s *Store) retainFDLocked(n *node) {
	n.open++
	if n.blob != nil {
		s.orderLocked(n.blob)
	}
}

// releaseFD counts one file descriptor less. The last one of a removed file frees its blocks.
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

// openFile opens a file of the index for reading. It returns fs.ErrNotExist if there is none. The caller closes the file and calls
// releaseFD.
func (s *Store) openFile(p string) (*os.File, *node, error) {
	s.mu.Lock()
	n := s.nodes[p]
	if n == nil || n.dir {
		s.mu.Unlock()
		return nil, nil, fs.ErrNotExist
	}
	s.retainFDLocked(n)
	s.mu.Unlock()
	f, err := openRegular(s.diskPath(p), 0)
	if err != nil {
		s.releaseFD(n)
		return nil, nil, err
	}
	return f, n, nil
}

// makeParents creates the directories above a path. It is called with tree locked.
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

// inDirectory runs a step that needs the directory of a path, which is in the index. If somebody has removed the directory, for
// example to empty the store, it is created again.
func (s *Store) inDirectory(p string, step func() error) error {
	err := step()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := s.diskPath(path.Dir(p))
	if _, missing := os.Lstat(dir); !errors.Is(missing, fs.ErrNotExist) {
		return err // it is something else that the step lacks
	}
	s.remade.Do(func() {
		s.log.Warn("somebody else has removed directories of the store: they are made again", "path", s.opts.Path)
	})
	if err := os.MkdirAll(dir, 0o770); err != nil {
		return err
	}
	return step()
}

// addNode adds a file or directory at a new path, and charges it and the growth of its parent in place of what was reserved for
// them. It is called with tree locked.
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

// spendLocked releases a part of a reservation that is charged to a file by now.
func (s *Store) spendLocked(n int64, reserved *int64) {
	s.used -= n
	*reserved -= n
	s.peak = max(s.peak, s.used)
}

// removeNode removes a deleted file from the index, and the directories that it leaves empty. It is called with tree locked.
func (s *Store) removeNode(n *node) {
	s.mu.Lock()
	s.forgetLocked(n)
	s.mu.Unlock()
	s.prune(path.Dir(n.path))
}

// forgetLocked removes a node from the index. Its blocks are charged until it is closed.
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

// prune removes an empty directory, and those above it that become empty. It is called with tree locked.
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

// renameNode changes the path and charge of a file, in place of what was reserved for it. It is called with tree locked.
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

// unlink removes a file. It returns the freed bytes and a function to call once tree is unlocked. It is called with tree locked.
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

// drop removes a blob with its links. Readers that have it open read on. With idle it does not remove a blob that has readers.
func (s *Store) drop(b *blob, idle bool) (freed int64, dropped bool) {
	s.tree.Lock()
	s.mu.Lock()
	if s.blobs[b.key] != b || idle && b.place == nil {
		s.mu.Unlock()
		s.tree.Unlock()
		return 0, false
	}
	files := make([]*node, 0, 1+len(b.links))
	if b.data != nil { // first: links without data are removed at the next start
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

// unlinkOrKeep is unlink, but keeps a file that cannot be removed in the index, without a blob.
func (s *Store) unlinkOrKeep(n *node) (int64, func(), error) {
	freed, finish, err := s.unlink(n)
	if err != nil {
		s.mu.Lock()
		s.detachLocked(n)
		s.mu.Unlock()
	}
	return freed, finish, err
}
