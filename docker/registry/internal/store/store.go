// SPDX-License-Identifier: GPL-3.0-or-later

// Package store keeps what a pull-through cache has fetched on the local file system, below an exact limit. One store
// serves several upstreams; each Upstream of it is a storage driver for one app of distribution.
//
// # On the disk
//
// The store owns its directory:
//
//	format               the version of this layout
//	lock                 locked by the process that uses the store
//	tmp/                 files that grow; removed at the next start
//	upstreams/NAME/...   what distribution writes, under the paths that it gives
//
// Bytes are written once: an upload of distribution grows in tmp and is renamed to its place. Data is shared by the
// repositories of one upstream, never between upstreams. A store of an unknown version is emptied, because its content is
// only a cache. Files that are not the store's are left alone and counted. What the driver is given that is neither a blob
// nor a link is kept and evicted like a blob, but its bytes are not verified.
//
// # The limit
//
// Every file and directory is charged with its blocks, and a removed file until its last reader has closed it. Room is
// reserved before anything is written, by dropping the least recently used blobs that have no readers, each with its
// links. So the blocks in use never exceed the limit. What cannot be kept passes to the clients all the same: PutContent
// reports success, and a fill goes on through a window in memory (see Growing).
//
// Blobs that another replica has too are dropped before all others (see Upstream.SetRelay).
//
// # Fills
//
// Package fill calls Upstream.Grow before it has distribution fetch a blob, and passes the Growing in the request's
// context (WithGrowing). The driver's Writer finds it there, so distribution's upload writes into it. Readers of the
// Growing follow the write offset. They get the last bytes when the digest is right, which is before fsync and commit;
// what happens after that cuts nobody.
//
// # Trust
//
// Blobs that this process wrote were hashed on their way. Those of an earlier process are hashed by their first reader,
// who follows the hash as a reader follows a fill, with the last bytes withheld. After that they are served as files
// (sendfile), unhashed, as long as size, inode and time of modification stay the same. So what the disk itself changes after
// the hash reaches clients, until the scrub finds it, which reads all again, slowly (Options.ScrubRate, ScrubEvery). Blobs up
// to Options.SmallLimit are hashed each time that they are read into memory. Wrong and unreadable blobs are dropped and
// counted.
//
// Locks, in this order: a Growing's writing, evicting, tree (changes of names on the disk), a Growing's mu, the store's mu
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

// Store is the one store of a replica. Its methods may be called from several goroutines.
type Store struct {
	opts Options
	log  *slog.Logger
	lock *os.File
	now  func() time.Time
	// fault is called before each step on the disk (create, write, fsync, rename, link, remove, read); tests make it fail.
	fault func(step string) error

	evicting sync.Mutex
	tree     sync.Mutex

	mu        sync.Mutex
	used      int64 // files, directories, reservations
	peak      int64 // the most that used has been
	evictable int64 // the part of it that can be dropped now
	orphans   int64 // the part of it that is removed but open
	nodes     map[string]*node
	blobs     map[blobKey]*blob
	order     *list.List // of *blob without readers, most recently used first
	relays    *list.List // the same of those that are dropped before
	growing   map[string]*Growing
	memory    int64
	windows   int64      // memory of the windows
	cached    *list.List // of *memo, most recently used first
	upstreams map[string]*Upstream
	closed    bool

	serial atomic.Int64
	remade sync.Once // the log says it once
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
	UsedBytes     int64 // registry_cache_disk_used_bytes: with what is reserved for running transfers
	LimitBytes    int64 // registry_cache_disk_limit_bytes
	PeakBytes     int64 // the most that UsedBytes has been
	OrphanBytes   int64 // the part of UsedBytes that is removed but still open
	MemoryBytes   int64 // small contents in memory
	Blobs         int64 // data or links
	Evictions     int64 // registry_cache_evictions_total: blobs and manifests that were dropped to make room
	EvictedBytes  int64 // registry_cache_evicted_bytes_total: disk that dropping them freed
	Unkept        int64 // registry_cache_unkept_total: bodies that were passed on and not stored
	Corrupt       int64 // registry_cache_corrupt_total: stored blobs that were dropped because they were wrong or could not be read
	OpenReaders   int64 // of growing and finished blobs
	Windows       int64 // fills that went through memory for want of room
	SlowReaders   int64 // readers that were dropped because they held such a fill up
	VerifiedBytes int64 // read to verify blobs of an earlier process
	ScrubbedBytes int64 // read by the scrub
}

// New opens the store at a path, or creates it. The error is a *ConfigError if an option is wrong, the path cannot be written, or
// another process uses the store.
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
	s.log.Info("store is open", "path", s.opts.Path, "used", st.UsedBytes, "limit", st.LimitBytes, "blobs", st.Blobs,
		"seconds", s.now().Sub(begun).Seconds())
	return nil
}

// unusable returns an error of the disk as a *ConfigError.
func (s *Store) unusable(err error) error {
	var c *ConfigError
	if errors.As(err, &c) {
		return err
	}
	return &ConfigError{
		"store.path", s.opts.Path, fmt.Sprintf("cannot be read and written: %v", err),
		"make it a directory that the process owns, for example by fsGroup, or name another one",
	}
}

// acquire locks the directory, so that no other process uses it.
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
				"stop that process, or give each process its own directory, for example /var/lib/registry-2",
			}
		}
		return s.unusable(fmt.Errorf("flock: %w", err))
	}
	return nil
}

// checkFormat empties a store of another version, and writes the version of a new one.
func (s *Store) checkFormat() error {
	found, err := readRegular(s.diskPath(formatPath))
	switch {
	case err == nil && string(found) == format:
		return nil
	case err == nil:
		s.log.Warn("the store has another format: it starts empty", "path", s.opts.Path, "format", strings.TrimSpace(string(found)))
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
	// Written aside and renamed: a process that dies leaves no half of a version.
	if err := os.WriteFile(s.diskPath(formatPath)+".new", []byte(format), 0o660); err != nil {
		return err
	}
	return os.Rename(s.diskPath(formatPath)+".new", s.diskPath(formatPath))
}

// adopt takes over the content of distribution's own store.
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
	s.log.Info("took over the content of distribution's own store", "path", s.opts.Path, "upstream", s.opts.Adopt, "error", err)
	return err
}

// Close ends the background work and unlocks the directory. Open readers can still be read.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.running.Wait()
	return s.lock.Close()
}

// begin adds a goroutine that Close waits for, and reports whether it may start.
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

// upstreamName is what a host in an image reference may be, with a port or as an IPv6 address. It is a directory's name.
var upstreamName = regexp.MustCompile(`^[a-z0-9\[][a-z0-9.:_\]-]{0,254}$`)

// nameError returns the error for an invalid name of an upstream.
func nameError(name string) error {
	return &ConfigError{
		"upstreams.host", name, "must be a registry's host name in lower case, with a port if it has one",
		"write, for example, host: us-central1-docker.pkg.dev",
	}
}

// Upstream returns the part of the store that belongs to one upstream, which is a storage driver.
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

// makeFixedDir creates a directory that is kept when it is empty. It is called with tree locked or before anything else runs.
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
