// SPDX-License-Identifier: GPL-3.0-or-later

// Package store is the disk store of a pull-through cache. It keeps its disk usage within an exact limit. One store
// serves several upstreams. Each Upstream is a storage driver for one app of distribution.
//
// # Layout
//
// The store owns its directory:
//
//	format               the version of this layout
//	lock                 locked by the process that uses the store
//	tmp/                 growing files; removed at the next start
//	upstreams/NAME/...   files of distribution, at its paths
//
// Bytes are written once: an upload of distribution is written to tmp and renamed. Data is shared by the repositories
// of an upstream, but never between upstreams. A store of an unknown version is emptied, since it is only a cache.
// Files that do not belong to the store are not touched, but count towards the limit. Files that are neither blobs nor
// links are stored and evicted like blobs, but not verified.
//
// # Limit
//
// Every file and directory is charged with its allocated blocks. A removed file stays charged until its last reader has
// closed it. Before anything is written, room is reserved by evicting the least recently used blobs without readers,
// together with their links. Therefore, allocated blocks never exceed the limit. Content for which there is no room is
// still sent to clients: PutContent reports success, and a fill continues through a window in memory (see Growing).
//
// Blobs that another replica has, too, are evicted before all others (see Upstream.SetRelay).
//
// # Fills
//
// Package fill calls Upstream.Grow before distribution fetches a blob, and passes the Growing in the request's context
// (WithGrowing). The driver's Writer finds it there, so that distribution's upload writes into it. Readers of the
// Growing follow the write offset. They get the last bytes once the digest has been verified, before fsync and commit.
// Errors after that do not affect readers.
//
// # Trust
//
// Blobs written by this process were hashed when they were fetched. Those of an earlier process are hashed on their
// first read: the reader follows the hash as it follows a fill, with the last bytes withheld. After that, they are
// served with sendfile and without hashing, as long as size, inode and modification time stay the same. Bit rot after
// that reaches clients until the scrub finds it, which slowly reads all blobs (Options.ScrubRate, ScrubEvery). Blobs up
// to Options.SmallLimit are hashed each time they are read into memory. Corrupt and unreadable blobs are dropped and
// counted.
//
// Locking order: a Growing's writing, evicting, tree (for changes of names on disk), a Growing's mu, the store's mu
// (never held during disk access).
package store

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	format       = "pullthrough.registry_cache store 1\n"
	formatPath   = "/format"
	lockPath     = "/lock"
	tmpPath      = "/tmp"
	upstreamPath = "/upstreams"
)

// Store is the store of a replica. It is safe for concurrent use.
type Store struct {
	opts Options
	log  *slog.Logger
	lock *os.File
	now  func() time.Time
	// fault is called before each disk operation (create, write, fsync, rename, link, remove, read). Tests use it to
	// inject errors.
	fault func(step string) error

	evicting sync.Mutex
	tree     sync.Mutex

	mu        sync.Mutex
	used      int64 // bytes of files, directories and reservations
	peak      int64 // maximum of used
	evictable int64 // part of used that can be evicted now
	orphans   int64 // part of used for removed files that are still open
	nodes     map[string]*node
	blobs     map[blobKey]*blob
	order     *list.List // *blob without readers, most recently used first
	relays    *list.List // the same for blobs that are evicted before these
	growing   map[string]*Growing
	memory    int64
	windows   int64      // total size of windows, in bytes
	cached    *list.List // *memoryItem, most recently used first
	upstreams map[string]*Upstream
	closed    bool
	outlived  bool // there were blobs of an earlier process; set by load
	frozen    bool // reading is no use; set by FreezeUse

	serial atomic.Int64
	remade sync.Once // log this only once
	count  counters

	stop    context.CancelFunc
	ctx     context.Context
	running sync.WaitGroup
}

type counters struct {
	evictions, evictedBytes, unkept, corrupt, readers, windows, slow, verifiedBytes, scrubbedBytes atomic.Int64
}

// Stats is a snapshot of a store. The comments name the metrics.
type Stats struct {
	UsedBytes     int64 // registry_cache_disk_used_bytes, including reservations for running transfers
	LimitBytes    int64 // registry_cache_disk_limit_bytes
	PeakBytes     int64 // maximum of UsedBytes
	OrphanBytes   int64 // part of UsedBytes for removed files that are still open
	MemoryBytes   int64 // small blobs in memory
	Blobs         int64 // number of blobs
	Evictions     int64 // registry_cache_evictions_total: blobs and manifests evicted to make room
	EvictedBytes  int64 // registry_cache_evicted_bytes_total: disk space freed by evictions
	Unkept        int64 // registry_cache_unkept_total: bodies sent to clients but not stored
	Corrupt       int64 // registry_cache_corrupt_total: stored blobs dropped because they were corrupt or unreadable
	OpenReaders   int64 // readers of growing and complete blobs
	Windows       int64 // fills that passed through memory for lack of room
	SlowReaders   int64 // readers dropped because they delayed such a fill
	VerifiedBytes int64 // bytes read to verify blobs of an earlier process
	ScrubbedBytes int64 // bytes read by the scrub
}

// New opens the store at Options.Path, or creates it. The error is a *ConfigError if an option is not valid, the path
// cannot be written, or another process uses the store.
func New(opts Options) (*Store, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	s := newStore(opts)
	if err := s.open(); err != nil {
		return nil, err
	}
	s.startScrub()
	return s, nil
}

// newStore returns a store that is not open yet.
func newStore(opts Options) *Store {
	s := &Store{
		opts:      opts.withDefaults(),
		now:       time.Now,
		fault:     func(string) error { return nil },
		nodes:     map[string]*node{},
		blobs:     map[blobKey]*blob{},
		order:     list.New(),
		relays:    list.New(),
		growing:   map[string]*Growing{},
		cached:    list.New(),
		upstreams: map[string]*Upstream{},
	}
	s.log = s.opts.Logger.With("component", "store")
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// open locks the directory, checks its version, and builds the index.
func (s *Store) open() (err error) {
	defer func() {
		if err != nil && s.lock != nil {
			_ = s.lock.Close()
		}
	}()
	if err := s.acquire(); err != nil {
		return err
	}
	if err := s.checkFormat(); err != nil {
		return s.unusable(err)
	}
	begun := s.now()
	if err := s.load(); err != nil {
		return s.unusable(err)
	}
	s.shrink()
	st := s.Stats()
	s.log.Info("Opened the store", "path", s.opts.Path, "used", st.UsedBytes, "limit", st.LimitBytes, "blobs", st.Blobs,
		"seconds", s.now().Sub(begun).Seconds())
	return nil
}

// unusable wraps a disk error in a *ConfigError.
func (s *Store) unusable(err error) error {
	var c *ConfigError
	if errors.As(err, &c) {
		return err
	}
	return &ConfigError{
		"store.path", s.opts.Path, fmt.Sprintf("cannot be read and written: %v", err),
		"make the directory writable for the process, for example with fsGroup, or use another one",
	}
}

// acquire locks the directory against other processes.
func (s *Store) acquire() error {
	if err := os.MkdirAll(s.opts.Path, 0o770); err != nil {
		return s.unusable(err)
	}
	resolved, err := filepath.EvalSymlinks(s.opts.Path)
	if err != nil {
		return s.unusable(err)
	}
	s.opts.Path = resolved
	f, err := os.OpenFile(s.diskPath(lockPath), os.O_RDWR|os.O_CREATE, 0o660)
	if err != nil {
		return s.unusable(err)
	}
	s.lock = f
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return &ConfigError{
				"store.path", s.opts.Path, "another process uses this store",
				"stop that process, or use another directory, for example /var/lib/registry-2",
			}
		}
		return s.unusable(fmt.Errorf("flock: %w", err))
	}
	return nil
}

// checkFormat empties a store of another version, and writes the version file.
func (s *Store) checkFormat() error {
	found, err := readRegular(s.diskPath(formatPath))
	switch {
	case err == nil && string(found) == format:
		return nil
	case err == nil:
		s.log.Warn("Emptied a store of an unknown format", "path", s.opts.Path, "format", strings.TrimSpace(string(found)))
		for _, p := range []string{upstreamPath, tmpPath} {
			if err := os.RemoveAll(s.diskPath(p)); err != nil {
				return err
			}
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	default:
		if err := s.adopt(); err != nil {
			return err
		}
	}
	// Write a new file and rename it, so that a crash never leaves a partial version file.
	if err := os.WriteFile(s.diskPath(formatPath)+".new", []byte(format), 0o660); err != nil {
		return err
	}
	return os.Rename(s.diskPath(formatPath)+".new", s.diskPath(formatPath))
}

// adopt takes over content that the unmodified registry has stored.
func (s *Store) adopt() error {
	if s.opts.Adopt == "" {
		return nil
	}
	if !upstreamName.MatchString(s.opts.Adopt) {
		return nameError(s.opts.Adopt)
	}
	to := s.diskPath(upstreamPath + "/" + s.opts.Adopt)
	if err := os.MkdirAll(to, 0o770); err != nil {
		return err
	}
	err := os.Rename(s.diskPath("/docker"), to+"/docker")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s.log.Info("Took over content of the unmodified registry", "path", s.opts.Path, "upstream", s.opts.Adopt, "error", err)
	return err
}

// Close stops the background work and unlocks the directory. Open readers can still be read.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.running.Wait()
	return s.lock.Close()
}

// begin registers a goroutine for which Close waits. It returns false if the store is closed.
func (s *Store) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running.Add(1)
	return true
}

// Stats returns a snapshot of the store for metrics.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		UsedBytes:     s.used,
		LimitBytes:    s.opts.Limit,
		PeakBytes:     s.peak,
		OrphanBytes:   s.orphans,
		MemoryBytes:   s.memory,
		Blobs:         int64(len(s.blobs)),
		Evictions:     s.count.evictions.Load(),
		EvictedBytes:  s.count.evictedBytes.Load(),
		Unkept:        s.count.unkept.Load(),
		Corrupt:       s.count.corrupt.Load(),
		OpenReaders:   s.count.readers.Load(),
		Windows:       s.count.windows.Load(),
		SlowReaders:   s.count.slow.Load(),
		VerifiedBytes: s.count.verifiedBytes.Load(),
		ScrubbedBytes: s.count.scrubbedBytes.Load(),
	}
}

// upstreamName matches a host in an image reference, with an optional port, or an IPv6 address. It is used as a
// directory name.
var upstreamName = regexp.MustCompile(`^[a-z0-9\[][a-z0-9.:_\]-]{0,254}$`)

// nameError returns the error for an invalid name of an upstream.
func nameError(name string) error {
	return &ConfigError{
		"upstreams.host", name, "must be a registry's host name in lower case, with an optional port",
		"write, for example, host: us-central1-docker.pkg.dev",
	}
}

// Upstream returns the part of the store for one upstream, which is a storage driver.
func (s *Store) Upstream(name string) (*Upstream, error) {
	if !upstreamName.MatchString(name) {
		return nil, nameError(name)
	}
	s.tree.Lock()
	defer s.tree.Unlock()
	s.mu.Lock()
	u := s.upstreams[name]
	s.mu.Unlock()
	if u != nil {
		return u, nil
	}
	u = &Upstream{store: s, name: name, root: upstreamPath + "/" + name}
	if err := s.makeFixedDir(u.root); err != nil {
		return nil, s.unusable(err)
	}
	s.mu.Lock()
	s.upstreams[name] = u
	s.mu.Unlock()
	return u, nil
}

// makeFixedDir creates a directory that is kept when it is empty. The caller holds tree, or nothing else is running
// yet.
func (s *Store) makeFixedDir(p string) error {
	nothing := int64(0)
	if err := s.makeParents(filepath.Join(p, "x"), &nothing); err != nil {
		return err
	}
	s.mu.Lock()
	s.nodes[p].fixed = true
	s.mu.Unlock()
	return nil
}

// isDiskFull reports whether an error means that the disk or a quota is full.
func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
