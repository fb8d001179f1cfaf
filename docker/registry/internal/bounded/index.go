// SPDX-License-Identifier: GPL-3.0-or-later

package bounded

import (
	"container/list"
	"errors"
	"hash/fnv"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
)

const (
	// block is the least that a file or a directory is counted with.
	block = 4096
	// touchEvery is how exactly the order of use survives a restart.
	touchEvery = time.Minute
	blobsDir   = "/docker/registry/v2/blobs/"
)

// store counts every file and directory below its root. Lock order: evicting, then a stripe, then mu.
type store struct {
	driver.StorageDriver
	root  string
	limit int64

	evicting sync.Mutex      // one at a time, so that no more is dropped than needed
	stripes  [256]sync.Mutex // writing and dropping the files of one digest take turns

	mu    sync.Mutex // guards what follows, never held during disk I/O
	used  int64      // everything: files, directories, reservations
	owned int64      // the part of it that can be dropped
	nodes map[string]*node
	blobs map[digest.Digest]*blob
	order *list.List // of *blob, most recently used first
	open  map[string]*writer
}

// node is a file or a directory.
type node struct {
	charge   int64
	children int
	blob     *blob // with which it is dropped
}

// blob is what is dropped together: data, and the links of all repositories and tags to it.
type blob struct {
	digest  digest.Digest
	files   []string
	place   *list.Element
	touched time.Time
}

func newStore(d driver.StorageDriver, root string, limit int64) *store {
	return &store{
		StorageDriver: d,
		root:          root,
		limit:         limit,
		nodes:         map[string]*node{},
		blobs:         map[digest.Digest]*blob{},
		order:         list.New(),
		open:          map[string]*writer{},
	}
}

func (s *store) real(p string) string { return filepath.Join(s.root, p) }

func (s *store) virtual(name string) string {
	rel, err := filepath.Rel(s.root, name)
	if err != nil || rel == "." {
		return "/"
	}
	return "/" + rel
}

func isData(p string) bool { return strings.HasPrefix(p, blobsDir) && path.Base(p) == "data" }

func isEmpty(d digest.Digest) bool { return d == d.Algorithm().FromBytes(nil) }

// digestOf names the blob that a file belongs to; a tag's current link says so in its content only.
func digestOf(p string, content []byte) digest.Digest {
	parts := strings.Split(p, "/")
	n := len(parts)
	var name string
	switch {
	case isData(p) && n >= 5:
		name = parts[n-4] + ":" + parts[n-2]
	case n >= 3 && parts[n-1] == "link" && parts[n-2] == "current":
		name = string(content)
	case n >= 3 && parts[n-1] == "link":
		name = parts[n-3] + ":" + parts[n-2]
	}
	d, err := digest.Parse(name)
	if err != nil {
		return ""
	}
	return d
}

func round(size int64) int64 { return (size + block - 1) / block * block }

// worst is what a new file may need at most, with a block for each directory above it, as new or grown.
func worst(p string, size int64) int64 {
	return round(size) + block*int64(1+strings.Count(p, "/"))
}

// charge is at least the blocks in use: some file systems allocate later, or compress.
func charge(fi fs.FileInfo) int64 {
	c := int64(block)
	if !fi.IsDir() {
		c = max(c, round(fi.Size()))
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		c = max(c, st.Blocks*512)
	}
	return c
}

// blocks is the charge of a file as it is now.
func (s *store) blocks(p string) int64 {
	fi, err := os.Lstat(s.real(p))
	if err != nil {
		return 0
	}
	return charge(fi)
}

// lock makes those wait for each other who write or drop the files of one blob.
func (s *store) lock(d digest.Digest, p string) func() {
	if d != "" {
		p = d.String()
	}
	h := fnv.New32a()
	h.Write([]byte(p))
	m := &s.stripes[h.Sum32()%uint32(len(s.stripes))]
	m.Lock()
	return m.Unlock
}

// take reserves without dropping anything.
func (s *store) take(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+n > s.limit {
		return false
	}
	s.used += n
	return true
}

func (s *store) release(n int64) {
	s.mu.Lock()
	s.used -= n
	s.mu.Unlock()
}

// settle ends a writer's reservation and answers how large it was.
func (s *store) settle(w *writer) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settleLocked(w)
}

func (s *store) settleLocked(w *writer) int64 {
	n := w.reserved
	s.used -= n
	w.reserved = 0
	if s.open[w.path] == w {
		delete(s.open, w.path)
	}
	return n
}

// reserve makes room by dropping what was not used for the longest time, unless even all of that would not do.
func (s *store) reserve(n int64) bool {
	if s.take(n) {
		return true
	}
	s.evicting.Lock()
	defer s.evicting.Unlock()
	for !s.take(n) {
		s.mu.Lock()
		possible := s.used-s.owned+n <= s.limit
		s.mu.Unlock()
		if !possible && n > 0 {
			return false
		}
		if _, ok := s.oldest(); !ok {
			return false
		}
	}
	return true
}

// evict drops at least so many bytes, if there are, and tells whether it dropped any.
func (s *store) evict(n int64) bool {
	s.evicting.Lock()
	defer s.evicting.Unlock()
	var freed int64
	for freed < n {
		f, ok := s.oldest()
		if !ok {
			break
		}
		freed += f
	}
	return freed > 0
}

// oldest drops the least recently used blob.
func (s *store) oldest() (int64, bool) {
	s.mu.Lock()
	back := s.order.Back()
	s.mu.Unlock()
	if back == nil {
		return 0, false
	}
	freed := s.discard(back.Value.(*blob).digest)
	evicted.Inc()
	evictedBytes.Add(float64(freed))
	return freed, true
}

// discard drops a blob with its links. Who has it open reads on.
func (s *store) discard(d digest.Digest) int64 {
	defer s.lock(d, "")()
	s.mu.Lock()
	b := s.blobs[d]
	if b == nil {
		s.mu.Unlock()
		return 0
	}
	delete(s.blobs, d)
	s.order.Remove(b.place)
	files := slices.DeleteFunc(b.files, func(f string) bool { return s.nodes[f] == nil || s.nodes[f].blob != b })
	s.mu.Unlock()
	var freed int64
	for _, f := range files {
		if err := os.Remove(s.real(f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			logrus.WithError(err).Error("bounded: cannot drop")
			s.disown(f)
			continue
		}
		freed += s.forget(f)
	}
	return freed
}

// disown keeps counting a file that cannot be removed.
func (s *store) disown(p string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[p]; n != nil && n.blob != nil {
		s.owned -= n.charge
		n.blob = nil
	}
}

// count takes a file that was just written, with its directories, in place of what was reserved for it.
func (s *store) count(p string, d digest.Digest, reserved int64, w *writer) {
	fi, err := os.Lstat(s.real(p))
	var dirs []string
	var charges []int64
	for dir := path.Dir(p); ; dir = path.Dir(dir) {
		dirs = append(dirs, dir)
		charges = append(charges, max(block, s.blocks(dir)))
		if dir == "/" {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= reserved
	if w != nil {
		s.settleLocked(w)
	}
	if err != nil {
		return
	}
	s.addLocked(p, charge(fi), d)
	for i, dir := range dirs {
		if n := s.nodes[dir]; n.charge < charges[i] { // a directory grows with its entries
			s.used += charges[i] - n.charge
			n.charge = charges[i]
		}
	}
}

// addLocked counts a file and, where they are new, the directories above it.
func (s *store) addLocked(p string, c int64, d digest.Digest) {
	n := s.nodeLocked(p)
	if n.blob != nil {
		s.owned -= n.charge
	}
	s.used += c - n.charge
	n.charge, n.blob = c, nil
	if d == "" {
		return
	}
	b := s.blobs[d]
	if b == nil {
		b = &blob{digest: d, touched: time.Now()}
		b.place = s.order.PushFront(b)
		s.blobs[d] = b
	}
	if !slices.Contains(b.files, p) {
		b.files = append(b.files, p)
	}
	n.blob = b
	s.owned += c
}

// nodeLocked finds a node or makes one, with the directories above it.
func (s *store) nodeLocked(p string) *node {
	n := s.nodes[p]
	if n == nil {
		n = &node{}
		s.nodes[p] = n
		if p != "/" {
			parent := s.nodeLocked(path.Dir(p))
			parent.children++
			if parent.charge == 0 {
				parent.charge = block
				s.used += block
			}
		}
	}
	return n
}

// forget stops counting a file that is gone, removes the directories that it leaves empty, and tells what that freed.
func (s *store) forget(p string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[p]
	if n == nil {
		return 0
	}
	var freed int64
	for {
		delete(s.nodes, p)
		if n.blob != nil {
			s.owned -= n.charge
		}
		s.used -= n.charge
		freed += n.charge
		p = path.Dir(p)
		n = s.nodes[p]
		n.children--
		if n.children > 0 || p == "/" {
			return freed
		}
		// Who writes into it meanwhile counts it anew, and makes it anew if it went.
		s.mu.Unlock()
		err := os.Remove(s.real(p))
		s.mu.Lock()
		if s.nodes[p] != n || n.children > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return freed
		}
	}
}

// absent makes sure that an old content does not stay where a new one could not be written.
func (s *store) absent(p string, d digest.Digest) {
	defer s.lock(d, p)()
	_ = os.Remove(s.real(p))
	s.forget(p)
}

// sweep removes what the driver leaves of a small write on a full disk.
func (s *store) sweep(p string) {
	left, _ := filepath.Glob(s.real(p) + ".*.tmp")
	for _, name := range left {
		_ = os.Remove(name)
	}
}

// touch makes a blob the most recently used, also in what is left of the order after a restart.
func (s *store) touch(p string, d digest.Digest) {
	now := time.Now()
	s.mu.Lock()
	b := s.blobs[d]
	if b == nil {
		s.mu.Unlock()
		return
	}
	s.order.MoveToFront(b.place)
	stale := now.Sub(b.touched) >= touchEvery
	if stale {
		b.touched = now
	}
	s.mu.Unlock()
	if stale {
		_ = os.Chtimes(s.real(p), now, now)
	}
}

// load counts what a former run left, and removes what it left unfinished. It runs before anything is served.
func (s *store) load() error {
	if err := os.MkdirAll(s.root, 0o777); err != nil {
		return err
	}
	used := map[digest.Digest]time.Time{}
	var empty []string
	err := filepath.WalkDir(s.root, func(name string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) && name != s.root { // lost+found
			return fs.SkipDir
		}
		if err != nil {
			return err
		}
		p := s.virtual(name)
		if e.IsDir() && e.Name() == "_uploads" {
			if err := os.RemoveAll(name); err != nil {
				return err
			}
			empty = append(empty, path.Dir(p))
			return fs.SkipDir
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		if e.IsDir() {
			n := s.nodeLocked(p)
			s.used += charge(fi) - n.charge
			n.charge = charge(fi)
			empty = append(empty, p)
			return nil
		}
		var content []byte
		if strings.HasSuffix(p, "/current/link") {
			content, _ = os.ReadFile(name)
		}
		d := digestOf(p, content)
		if strings.HasSuffix(p, ".tmp") || isData(p) && fi.Size() == 0 && !isEmpty(d) {
			return os.Remove(name)
		}
		s.addLocked(p, charge(fi), d)
		if isData(p) {
			used[d] = fi.ModTime()
		}
		return nil
	})
	if err != nil {
		return err
	}
	for d := range s.blobs {
		if _, ok := used[d]; !ok {
			s.discard(d) // links to nothing
		}
	}
	for _, p := range slices.Backward(empty) { // deepest first
		if n := s.nodes[p]; n != nil && n.children == 0 && p != "/" && os.Remove(s.real(p)) == nil {
			s.forget(p)
		}
	}
	byUse := make([]*blob, 0, len(s.blobs))
	for d, b := range s.blobs {
		b.touched = used[d]
		byUse = append(byUse, b)
	}
	slices.SortFunc(byUse, func(a, b *blob) int { return a.touched.Compare(b.touched) })
	for _, b := range byUse {
		s.order.MoveToFront(b.place)
	}
	return nil
}
