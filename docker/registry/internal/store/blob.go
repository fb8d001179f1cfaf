// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/digests"
)

var errChanged = errors.New("another process has changed the file")

// Blob is a complete blob that is open for reading. It counts as a reader until it is closed.
type Blob struct {
	Digest digest.Digest // digest under which the data is stored
	Size   int64

	content io.ReadSeeker
	once    sync.Once
	close   func()
	drop    func(error) // nil if the content is not the blob's file
}

// Content returns the content for http.ServeContent: an *os.File (sent with sendfile), a *bytes.Reader, or a *Reader if
// the blob is being verified.
func (b *Blob) Content() io.ReadSeeker { return b.content }

// Read reads the content.
func (b *Blob) Read(p []byte) (int, error) { return b.content.Read(p) }

// Seek sets the offset of the next Read.
func (b *Blob) Seek(offset int64, whence int) (int64, error) { return b.content.Seek(offset, whence) }

// CheckFile checks, after an incomplete transfer, whether the file can be read where the transfer stopped. If it
// cannot, the blob is dropped, so that it is fetched again.
func (b *Blob) CheckFile() {
	f, ok := b.content.(*os.File)
	if !ok || b.drop == nil {
		return
	}
	off, err := f.Seek(0, io.SeekCurrent)
	if err == nil && off < b.Size {
		var next [1]byte
		_, err = f.ReadAt(next[:], off)
	}
	if err != nil {
		b.drop(err)
	}
}

// Close closes the blob.
func (b *Blob) Close() error {
	b.once.Do(b.close)
	return nil
}

// Open opens a blob of a repository. A digest with another algorithm than sha256 is resolved by the link that
// distribution wrote for it. The error is fs.ErrNotExist if the store does not have the blob.
func (u *Upstream) Open(ctx context.Context, repository string, d digest.Digest) (*Blob, error) {
	b := u.find(repository, d)
	if b == nil {
		return nil, fs.ErrNotExist
	}
	return u.store.openBlob(ctx, b)
}

// Has returns the size of a blob, and whether the repository has it. It marks the blob as used.
func (u *Upstream) Has(repository string, d digest.Digest) (size int64, ok bool) {
	b := u.find(repository, d)
	if b == nil {
		return 0, false
	}
	u.store.touch(b)
	u.store.mu.Lock()
	defer u.store.mu.Unlock()
	return b.size, b.data != nil
}

// find returns a blob of a repository, or nil.
func (u *Upstream) find(repository string, d digest.Digest) *blob {
	if !digests.Valid(d) {
		return nil
	}
	s := u.store
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[u.root+reposDir+repository+"/_layers/"+string(d.Algorithm())+"/"+d.Encoded()+"/link"]
	if n == nil {
		return nil
	}
	b := s.blobs[blobKey{upstream: u.name, digest: n.link}]
	if b == nil || b.data == nil {
		return nil
	}
	return b
}

// openBlob opens a blob from memory, as a file, or with verification.
func (s *Store) openBlob(ctx context.Context, b *blob) (*Blob, error) {
	s.touch(b)
	for {
		open, err := s.openBlobOnce(ctx, b)
		if !errors.Is(err, ErrClosed) && !errors.Is(err, errChanged) { // otherwise its verification has just ended, or must start
			return open, err
		}
	}
}

func (s *Store) openBlobOnce(ctx context.Context, b *blob) (*Blob, error) {
	s.mu.Lock()
	n, size, verified := b.data, b.size, !b.verified.IsZero()
	small := s.cachedLocked(b)
	s.mu.Unlock()
	open := &Blob{Digest: b.key.digest, Size: size}
	var err error
	switch {
	case n == nil:
		return nil, fs.ErrNotExist
	case small != nil:
	case size <= s.opts.SmallLimit:
		if small, err = s.readSmall(b, n, verified); err != nil {
			return nil, err
		}
		open.Size = int64(len(small))
	case verified:
		f, n, err := s.openWhole(b, n)
		if err != nil {
			return nil, err
		}
		s.count.readers.Add(1)
		open.content, open.close = f, func() { _ = f.Close(); s.releaseFD(n); s.count.readers.Add(-1) }
		open.drop = func(err error) { s.dropCorrupt(b, n, err) }
		return open, nil
	default:
		r, err := s.verify(ctx, b)
		if err != nil {
			return nil, err
		}
		open.content, open.close = r, func() { _ = r.Close() }
		return open, nil
	}
	s.count.readers.Add(1)
	open.content, open.close = bytes.NewReader(small), func() { s.count.readers.Add(-1) }
	return open, nil
}

// openWhole opens the data of a blob for reading. If another process has removed or truncated the file, or if it cannot
// be opened, the blob is dropped, so that it is fetched again. The caller closes the file and calls releaseFD for the
// node.
func (s *Store) openWhole(b *blob, n *node) (*os.File, *node, error) {
	s.mu.Lock()
	p, size := n.path, b.size
	s.mu.Unlock()
	f, open, err := s.openFile(p)
	if err == nil {
		var info fs.FileInfo
		if info, err = f.Stat(); err == nil && info.Size() == size {
			if s.isModified(b, n, info) {
				_ = f.Close()
				s.releaseFD(open)
				return nil, nil, errChanged
			}
			return f, open, nil
		}
		if err == nil {
			err = fmt.Errorf("%w: it has %d of %d bytes", ErrCorrupt, info.Size(), size)
		}
		_ = f.Close()
		s.releaseFD(open)
	}
	if isResourceError(err) {
		return nil, nil, err
	}
	s.dropCorrupt(b, n, err) // unless it has been dropped or replaced
	return nil, nil, fs.ErrNotExist
}

// isModified reports whether another process has changed the file of a blob since it was verified. If so, the blob will
// be verified again, like one written by an earlier process.
func (s *Store) isModified(b *blob, n *node, fi fs.FileInfo) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	right := !b.verified.IsZero()
	if b.data != n || right && b.stamp == stampOf(fi) || b.size <= s.opts.SmallLimit {
		return false // small blobs are hashed each time they are read
	}
	if !right { // another reader has noticed the change
		return true
	}
	s.log.Warn("Another process has changed a stored blob: verifying it again", "upstream", b.key.upstream, "digest", b.key.digest)
	b.verified = time.Time{}
	return true
}

// isResourceError reports whether an error is not caused by the file: the process or the machine lacks file descriptors
// or memory.
func isResourceError(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}
