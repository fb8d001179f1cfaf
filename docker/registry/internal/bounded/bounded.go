// SPDX-License-Identifier: GPL-3.0-or-later

// Package bounded is a storage middleware that keeps a pull-through cache on the file system below a limit of used
// blocks. It drops the least recently used blobs with their links; what cannot be kept passes to the client all the
// same. It takes for granted that this process alone writes below the root directory.
package bounded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	storagemiddleware "github.com/distribution/distribution/v3/registry/storage/driver/middleware"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
)

const (
	// attempts is how often a small write is tried again after making room.
	attempts = 10
	// evictAtLeast is what each of these attempts drops on a full disk.
	evictAtLeast = 1 << 20
)

func init() {
	if err := storagemiddleware.Register("bounded", create); err != nil {
		panic(err)
	}
}

type sizeKey struct{}

// WithSize tells the storage how large the blob will be that is written with this context.
func WithSize(ctx context.Context, size int64) context.Context {
	return context.WithValue(ctx, sizeKey{}, size)
}

// create gets the registry itself as context, and with it the root directory, which a driver does not tell.
func create(ctx context.Context, d driver.StorageDriver, options map[string]any) (driver.StorageDriver, error) {
	limit, err := parse(options)
	if err != nil {
		return nil, err
	}
	app, ok := ctx.(*handlers.App)
	if !ok || app.Config.Storage.Type() != "filesystem" {
		return nil, errors.New("bounded: works with the storage driver filesystem only")
	}
	if _, ok := app.Config.Storage["cache"]; ok {
		return nil, errors.New("bounded: storage.cache must not be set, it would know of blobs that were dropped")
	}
	root := "/var/lib/registry" // the driver's own default
	if r, ok := app.Config.Storage.Parameters()["rootdirectory"]; ok {
		root = fmt.Sprint(r)
	}
	s := newStore(d, root, limit)
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("bounded: %w", err)
	}
	s.reserve(0) // the limit may be lower than it was
	s.expose()
	logrus.Infof("bounded: %d of %d bytes used, %d blobs", s.used, s.limit, len(s.blobs))
	return s, nil
}

func parse(options map[string]any) (int64, error) {
	for name := range options {
		if name != "limit" {
			return 0, fmt.Errorf("bounded: unknown option %q", name)
		}
	}
	limit, err := strconv.ParseInt(fmt.Sprint(options["limit"]), 10, 64)
	if err != nil || limit <= 0 {
		return 0, fmt.Errorf("bounded: option \"limit\" must be a number of bytes above 0, not %v", options["limit"])
	}
	return limit, nil
}

// Stat counts as use: what was found is not dropped before it is read.
func (s *store) Stat(ctx context.Context, p string) (driver.FileInfo, error) {
	fi, err := s.StorageDriver.Stat(ctx, p)
	if err != nil || !isData(p) {
		return fi, err
	}
	d := digestOf(p, nil)
	if fi.Size() == 0 && !isEmpty(d) { // nobody would read it and find it wrong
		s.discard(d)
		return nil, driver.PathNotFoundError{Path: p, DriverName: s.Name()}
	}
	s.touch(p, d)
	return fi, nil
}

// Reader hashes a blob that is read from its start, and drops it when the bytes are wrong.
func (s *store) Reader(ctx context.Context, p string, offset int64) (io.ReadCloser, error) {
	r, err := s.StorageDriver.Reader(ctx, p, offset)
	if err != nil || !isData(p) {
		return r, err
	}
	d := digestOf(p, nil)
	s.touch(p, d)
	file, ok := r.(interface{ Stat() (os.FileInfo, error) })
	if !ok || offset != 0 {
		return r, nil
	}
	fi, err := file.Stat()
	if err != nil {
		return r, nil
	}
	return &checked{ReadCloser: r, store: s, digest: d, hash: d.Algorithm().Hash(), left: fi.Size()}, nil
}

// checked is a blob that is dropped when the bytes read are not what its name says.
type checked struct {
	io.ReadCloser
	store  *store
	digest digest.Digest
	hash   hash.Hash
	left   int64
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if n > 0 {
		c.hash.Write(p[:n])
		if c.left -= int64(n); c.left == 0 && digest.NewDigest(c.digest.Algorithm(), c.hash) != c.digest {
			logrus.WithField("digest", c.digest).Error("bounded: wrong bytes on disk, dropped")
			corrupt.Inc()
			c.store.discard(c.digest)
		}
	}
	return n, err
}

// PutContent never fails for want of room: the registry fetches again what it does not find.
func (s *store) PutContent(ctx context.Context, p string, content []byte) error {
	if old, err := s.GetContent(ctx, p); err == nil && bytes.Equal(old, content) {
		return nil // each pull of a tag writes its links again
	}
	err := s.write(p, digestOf(p, content), int64(len(content)), nil, func() error {
		return s.StorageDriver.PutContent(ctx, p, content)
	})
	if err != nil {
		logrus.WithField("path", p).WithError(err).Warn("bounded: not written")
		s.absent(p, digestOf(p, content))
	}
	return nil
}

// Move takes a finished upload to its place.
func (s *store) Move(ctx context.Context, from, to string) error {
	s.mu.Lock()
	w := s.open[from]
	s.mu.Unlock()
	return s.write(to, digestOf(to, nil), 0, w, func() error {
		return s.StorageDriver.Move(ctx, from, to)
	})
}

// write makes room, and more of it when the disk is full, and counts what was written instead of w's reservation.
func (s *store) write(p string, d digest.Digest, size int64, w *writer, do func() error) error {
	need := worst(p, size)
	if !s.reserve(need) {
		return errNoRoom
	}
	for try := 1; ; try++ {
		unlock := s.lock(d, p)
		err := do()
		if err == nil {
			s.count(p, d, need, w)
		} else {
			s.sweep(p)
		}
		unlock()
		switch {
		case err == nil:
			return nil
		case try < attempts && is(err, syscall.ENOENT): // an empty directory was removed in between
		case try < attempts && full(err) && s.evict(evictAtLeast):
		default:
			s.release(need)
			return err
		}
	}
}

// Writer never fails for want of room either.
func (s *store) Writer(ctx context.Context, p string, add bool) (driver.FileWriter, error) {
	if add {
		return nil, driver.ErrUnsupportedMethod{DriverName: s.Name()} // a cache resumes no upload
	}
	size, _ := ctx.Value(sizeKey{}).(int64)
	w := &writer{store: s, path: p, measure: measureEvery}
	s.mu.Lock()
	s.open[p] = w
	s.mu.Unlock()
	if !w.reserve(size) {
		w.drop(errNoRoom)
		return w, nil
	}
	for try := 1; ; try++ {
		file, err := s.StorageDriver.Writer(ctx, p, false)
		if err == nil {
			w.file = file
			return w, nil
		}
		if try < attempts && (is(err, syscall.ENOENT) || full(err) && s.evict(evictAtLeast)) {
			continue
		}
		w.drop(err)
		return w, nil
	}
}

// Delete removes a path with all below it.
func (s *store) Delete(ctx context.Context, p string) error {
	var files []string
	_ = filepath.WalkDir(s.real(p), func(name string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, s.virtual(name))
		}
		return nil
	})
	err := s.StorageDriver.Delete(ctx, p)
	for _, f := range files {
		s.forget(f)
	}
	s.mu.Lock()
	var gone []*writer
	for q, w := range s.open {
		if strings.HasPrefix(q+"/", p+"/") {
			gone = append(gone, w)
		}
	}
	s.mu.Unlock()
	for _, w := range gone {
		s.settle(w)
	}
	return err
}

// full tells a full disk, or a full quota, from other errors.
func full(err error) bool { return is(err, syscall.ENOSPC) || is(err, syscall.EDQUOT) }

// is looks into the driver's errors too, which do not unwrap.
func is(err error, code syscall.Errno) bool {
	var wrapped driver.Error
	if errors.As(err, &wrapped) {
		return is(wrapped.Detail, code)
	}
	return errors.Is(err, code)
}
