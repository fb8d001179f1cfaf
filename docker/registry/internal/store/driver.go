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
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
)

const (
	// DriverName is the name of the storage driver in distribution's configuration.
	DriverName = "pullthrough"
	// driverParameter is the driver parameter that holds the driver itself.
	driverParameter = "upstream"
	// maxAttempts is how often a small write is retried after making room on a full disk.
	maxAttempts = 10
	// evictAtLeast is the minimum that each of these attempts evicts, in bytes.
	evictAtLeast = 1 << 20
)

// Upstream is the part of a store that belongs to one upstream. It is a storage driver.
type Upstream struct {
	store *Store
	name  string
	root  string // below the store's root
}

var _ driver.StorageDriver = (*Upstream)(nil)

var register sync.Once

// Configuration returns distribution's storage section for one app: this driver, no redirects, deletion enabled, and no
// descriptor cache, which would not notice that blobs are evicted.
func (u *Upstream) Configuration() configuration.Storage {
	register.Do(func() { factory.Register(DriverName, fromParameters{}) })
	return configuration.Storage{
		DriverName:    configuration.Parameters{driverParameter: u},
		"delete":      configuration.Parameters{"enabled": true},
		"redirect":    configuration.Parameters{"disable": true},
		"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
	}
}

// fromParameters is a factory that returns the driver in its parameters.
type fromParameters struct{}

// Create returns the driver in the parameters.
func (fromParameters) Create(_ context.Context, parameters map[string]any) (driver.StorageDriver, error) {
	u, ok := parameters[driverParameter].(*Upstream)
	if !ok {
		return nil, fmt.Errorf("storage driver %s: parameter %q is not an upstream of the store", DriverName, driverParameter)
	}
	return u, nil
}

// Name returns the driver's name.
func (u *Upstream) Name() string { return DriverName }

// path returns the path below the store's root for a path of distribution.
func (u *Upstream) path(p string) string { return path.Join(u.root, p) }

// checkPath returns an error if distribution's driver interface does not allow a path.
func (u *Upstream) checkPath(p string, root bool) error {
	if driver.PathRegexp.MatchString(p) && p == path.Clean(p) || root && p == "/" {
		return nil
	}
	return driver.InvalidPathError{Path: p, DriverName: DriverName}
}

func notFound(p string) error { return driver.PathNotFoundError{Path: p, DriverName: DriverName} }

// driverError returns an error in the form that distribution expects.
func driverError(p string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return notFound(p)
	}
	return driver.Error{DriverName: DriverName, Detail: err}
}

// blobOf returns the blob whose data is at a path, or nil, and whether the path is that of data.
func (u *Upstream) blobOf(p string) (b *blob, isData bool) {
	d, ok := dataDigest(p)
	if !ok {
		return nil, false
	}
	s := u.store
	s.mu.Lock()
	defer s.mu.Unlock()
	b = s.blobs[blobKey{upstream: u.name, digest: d}]
	if b == nil || b.data == nil {
		return nil, true
	}
	return b, true
}

// GetContent returns the content of a file. Links come from the index. Data is returned only if it matches its digest.
func (u *Upstream) GetContent(ctx context.Context, p string) ([]byte, error) {
	if err := u.checkPath(p, false); err != nil {
		return nil, err
	}
	s := u.store
	s.mu.Lock()
	if n := s.nodes[u.path(p)]; n != nil && n.link != "" {
		defer s.mu.Unlock()
		return []byte(n.link), nil
	}
	s.mu.Unlock()
	r, err := u.Reader(ctx, p, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if errors.Is(err, ErrCorrupt) {
		err = fs.ErrNotExist
	}
	return content, driverError(p, err)
}

// PutContent writes a file. It does not fail for lack of room: distribution fetches missing content again.
func (u *Upstream) PutContent(_ context.Context, p string, content []byte) error {
	if err := u.checkPath(p, false); err != nil {
		return err
	}
	if isUpload(p) {
		return nil // the start time of an upload, which is needed only to resume it
	}
	s, full := u.store, u.path(p)
	s.mu.Lock()
	n := s.nodes[full]
	same := n != nil && n.link != "" && string(n.link) == string(content)
	isDir := n != nil && n.dir
	s.mu.Unlock()
	switch {
	case same:
		return nil // unchanged: each pull of a tag rewrites its links
	case isDir:
		return driverError(p, syscall.EISDIR)
	}
	if err := s.put(full, content); err != nil {
		if errors.Is(err, syscall.ENOTDIR) {
			return driverError(p, err)
		}
		s.log.Warn("Cannot write a file", "path", p, "error", err)
		s.removePath(full) // stale content must not remain
	}
	return nil
}

// Reader returns a reader of a file. Data is hashed while it is read, until it has been verified once.
func (u *Upstream) Reader(ctx context.Context, p string, offset int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, driver.InvalidOffsetError{Path: p, Offset: offset, DriverName: DriverName}
	}
	if err := u.checkPath(p, false); err != nil {
		return nil, err
	}
	if b, ok := u.blobOf(p); ok {
		if b == nil {
			return nil, notFound(p)
		}
		open, err := u.store.openBlob(ctx, b)
		if err != nil {
			return nil, driverError(p, err)
		}
		if _, err := open.Seek(offset, io.SeekStart); err != nil {
			_ = open.Close()
			return nil, driverError(p, err)
		}
		return open, nil
	}
	f, n, err := u.store.openFile(u.store.uploadFile(u.path(p)))
	if err != nil {
		return nil, driverError(p, err)
	}
	u.store.touchNode(n)
	r := &plainReader{File: f, close: func() { u.store.releaseFD(n) }}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		_ = r.Close()
		return nil, driverError(p, err)
	}
	return r, nil
}

// plainReader is an open file that keeps a reference to its node.
type plainReader struct {
	*os.File
	once  sync.Once
	close func()
}

// Close closes the file.
func (r *plainReader) Close() (err error) {
	r.once.Do(func() {
		err = r.File.Close()
		r.close()
	})
	return err
}

// Stat returns information about a path. It marks the file as used, so that it is not evicted before it is read.
func (u *Upstream) Stat(_ context.Context, p string) (driver.FileInfo, error) {
	if err := u.checkPath(p, true); err != nil {
		return nil, err
	}
	s := u.store
	if b, ok := u.blobOf(p); ok {
		if b == nil {
			return nil, notFound(p)
		}
		s.touch(b)
	}
	full := s.uploadFile(u.path(p))
	s.mu.Lock()
	known := s.nodes[full] != nil
	s.mu.Unlock()
	if !known {
		return nil, notFound(p)
	}
	fi, err := os.Lstat(s.diskPath(full))
	if err != nil {
		return nil, driverError(p, err)
	}
	info := driver.FileInfoFields{Path: p, ModTime: fi.ModTime(), IsDir: fi.IsDir()}
	if !fi.IsDir() {
		info.Size = fi.Size()
	}
	return driver.FileInfoInternal{FileInfoFields: info}, nil
}

// List returns the direct children of a directory.
func (u *Upstream) List(_ context.Context, p string) ([]string, error) {
	if err := u.checkPath(p, true); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(u.store.diskPath(u.path(p)))
	if err != nil {
		return nil, driverError(p, err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, path.Join(p, e.Name()))
	}
	return names, nil
}

// Move renames a file, such as a finished upload.
func (u *Upstream) Move(_ context.Context, from, to string) error {
	for _, p := range []string{from, to} {
		if err := u.checkPath(p, false); err != nil {
			return err
		}
	}
	err := u.store.move(u.path(from), u.path(to))
	if err != nil && isUpload(from) {
		u.store.count.unkept.Add(1)
	}
	return driverError(from, err)
}

// Delete removes a path and everything below it.
func (u *Upstream) Delete(_ context.Context, p string) error {
	if err := u.checkPath(p, false); err != nil {
		return err
	}
	return driverError(p, u.store.removePath(u.path(p)))
}

// RedirectURL returns no URL, since clients read only from the cache.
func (u *Upstream) RedirectURL(*http.Request, string) (string, error) { return "", nil }

// Walk calls f for each file and directory below a path.
func (u *Upstream) Walk(ctx context.Context, p string, f driver.WalkFn, options ...func(*driver.WalkOptions)) error {
	if err := u.checkPath(p, true); err != nil {
		return err
	}
	return driver.WalkFallback(ctx, u, p, f, options...)
}

// put writes a small file.
func (s *Store) put(p string, content []byte) error {
	return s.withRoom(maxCharge(p, int64(len(content)))+block, func(reserved *int64) error {
		return s.putOnce(p, content, reserved)
	})
}

// withRoom reserves room for a step and runs it. If the disk is full, it evicts something and retries the step.
func (s *Store) withRoom(need int64, step func(reserved *int64) error) error {
	reserved := int64(0)
	defer func() { s.release(reserved) }()
	for try := 1; ; try++ {
		if !s.reserve(need - reserved) { // a failed step may have spent some of it
			return errNoRoom
		}
		reserved = need
		err := step(&reserved)
		if err == nil || try == maxAttempts || !isDiskFull(err) || !s.evict(evictAtLeast) {
			return err
		}
	}
}

// putOnce writes a small file to tmp and renames it.
func (s *Store) putOnce(p string, bytes []byte, reserved *int64) (err error) {
	aside := fmt.Sprintf("%s/put-%d", tmpPath, s.serial.Add(1))
	defer func() {
		if err != nil {
			_ = os.Remove(s.diskPath(aside))
		}
	}()
	if err := s.writeAside(aside, bytes); err != nil {
		return err
	}
	s.tree.Lock()
	finish, err := s.putInPlace(aside, p, bytes, reserved)
	s.tree.Unlock()
	finish()
	return err
}

// writeAside writes a new file in tmp.
func (s *Store) writeAside(p string, content []byte) error {
	if err := s.fault("create"); err != nil {
		return err
	}
	var f *os.File
	err := s.inDirectory(p, func() (err error) {
		f, err = os.OpenFile(s.diskPath(p), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o660)
		return err
	})
	if err != nil {
		return err
	}
	if err = s.fault("write"); err == nil {
		_, err = f.Write(content)
	}
	return errors.Join(err, f.Close())
}

// putInPlace renames a small file to its path and adds it to the index. The caller holds tree.
func (s *Store) putInPlace(aside, p string, bytes []byte, reserved *int64) (finish func(), err error) {
	if err := s.fault("link"); err != nil {
		return func() {}, err
	}
	finish, err = s.clearPath(p, reserved)
	if err != nil {
		return finish, err
	}
	if err := s.inDirectory(p, func() error { return os.Rename(s.diskPath(aside), s.diskPath(p)) }); err != nil {
		s.prune(path.Dir(p))
		return finish, err
	}
	n := &node{path: p}
	s.addNode(n, s.chargeAt(p), reserved)
	now := s.stampAt(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := contentOf(p, bytes)
	s.attachLocked(n, c)
	if c.data {
		n.blob.size = int64(len(bytes))
		if d := c.key.digest; d != "" && d.Algorithm().FromBytes(bytes) == d {
			n.blob.verified, n.blob.stamp = s.now(), now
			s.cacheLocked(n.blob, bytes)
		}
	}
	return finish, nil
}

// clearPath creates the directories of a path and removes an existing file. The caller holds tree.
func (s *Store) clearPath(p string, reserved *int64) (finish func(), err error) {
	finish = func() {}
	s.mu.Lock()
	old := s.nodes[p]
	s.mu.Unlock()
	switch {
	case old == nil:
		return finish, s.makeParents(p, reserved)
	case old.dir:
		return finish, &fs.PathError{Op: "rename", Path: p, Err: syscall.EISDIR}
	}
	_, finish, err = s.unlink(old)
	return finish, errors.Join(err, s.makeParents(p, reserved)) // removing the only file of a directory removes the directory, too
}

// move renames a file or an upload.
func (s *Store) move(from, to string) error {
	return s.withRoom(maxCharge(to, 0), func(reserved *int64) error {
		s.tree.Lock()
		finish, err := s.moveInTree(from, to, reserved)
		s.tree.Unlock()
		finish()
		return err
	})
}

// moveInTree renames a file or an upload. The caller holds tree.
func (s *Store) moveInTree(from, to string, reserved *int64) (finish func(), err error) {
	finish = func() {}
	at := s.uploadFile(from)
	s.mu.Lock()
	n := s.nodes[at]
	g := s.growing[from]
	s.mu.Unlock()
	if n == nil || n.dir {
		return finish, fs.ErrNotExist
	}
	if err := s.fault("rename"); err != nil {
		return finish, err
	}
	if finish, err = s.clearPath(to, reserved); err != nil {
		return finish, err
	}
	if err := s.inDirectory(to, func() error { return os.Rename(s.diskPath(at), s.diskPath(to)) }); err != nil {
		s.prune(path.Dir(to))
		return finish, err
	}
	fi, err := os.Lstat(s.diskPath(to))
	if err != nil {
		return finish, err
	}
	var says []byte
	if _, rest := splitPath(to); isLink(rest) {
		says, _ = readRegular(s.diskPath(to))
	}
	c := contentOf(to, says)
	s.renameNode(n, to, charge(fi), reserved)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.growing, from)
	s.attachLocked(n, c)
	if c.data {
		n.blob.size = fi.Size()
		if g != nil || strings.HasPrefix(from, tmpPath+"/") { // hashed while it was written, by this package or by distribution
			n.blob.verified, n.blob.stamp = s.now(), stampOf(fi)
		}
	}
	return finish, nil
}

// removePath removes a file, or a directory and everything below it.
func (s *Store) removePath(p string) error {
	if s.removeUploads(p) {
		return nil
	}
	s.tree.Lock()
	var later []func()
	defer func() {
		for _, finish := range later {
			finish()
		}
	}()
	defer s.tree.Unlock()
	s.mu.Lock()
	known := s.nodes[p] != nil
	s.mu.Unlock()
	if !known {
		return fs.ErrNotExist
	}
	var failed error
	var dirs []string
	_ = filepath.WalkDir(s.diskPath(p), func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		rel, _ := filepath.Rel(s.opts.Path, name)
		s.mu.Lock()
		n := s.nodes["/"+rel]
		s.mu.Unlock()
		switch {
		case n == nil:
			return nil
		case n.dir:
			dirs = append(dirs, n.path)
			return nil
		}
		_, finish, err := s.unlink(n)
		later = append(later, finish)
		failed = errors.Join(failed, err)
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		s.prune(dir)
	}
	return failed
}

// removeUploads removes the uploads below a path, and reports whether there were any.
func (s *Store) removeUploads(p string) bool {
	if !isUpload(p) {
		return false
	}
	var found []*Growing
	s.mu.Lock()
	for q, g := range s.growing {
		if q == p || strings.HasPrefix(q, p+"/") {
			delete(s.growing, q)
			found = append(found, g)
		}
	}
	s.mu.Unlock()
	for _, g := range found {
		if g.unread { // distribution discards an upload of a blob that it already has
			g.Close()
		}
	}
	return len(found) > 0
}

// uploadFile returns the path of an upload's file in tmp. For other files, it returns p.
func (s *Store) uploadFile(p string) string {
	if !isUpload(p) {
		return p
	}
	s.mu.Lock()
	g := s.growing[p]
	s.mu.Unlock()
	if g != nil {
		if at := g.path(); at != "" {
			return at
		}
	}
	return p
}

// isUpload reports whether a path is that of an upload.
func isUpload(p string) bool { return strings.Contains(p, "/_uploads/") }

// Writer returns a writer for an upload or another file.
func (u *Upstream) Writer(ctx context.Context, p string, add bool) (driver.FileWriter, error) {
	if err := u.checkPath(p, false); err != nil {
		return nil, err
	}
	if isUpload(p) {
		if add {
			return nil, driver.ErrUnsupportedMethod{DriverName: DriverName} // uploads are never resumed
		}
		return u.upload(ctx, u.path(p)), nil
	}
	w, err := u.store.plainWriter(u.path(p), add)
	if err != nil {
		return nil, driverError(p, err)
	}
	return w, nil
}
