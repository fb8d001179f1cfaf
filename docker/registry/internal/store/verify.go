// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"
)

// ErrCorrupt is returned to readers of a blob whose bytes on disk are corrupt.
var ErrCorrupt = errors.New("the stored bytes do not match the digest")

// verifyChunk is how many bytes are read and hashed at a time.
const verifyChunk = 256 << 10

// verify returns a reader that follows the verification of a blob stored by an earlier process. All readers share one
// verification. The error is ErrClosed if the verification has just ended.
func (s *Store) verify(ctx context.Context, b *blob) (*Reader, error) {
	s.mu.Lock()
	n, g, size := b.data, b.checking, b.size
	s.mu.Unlock()
	if n == nil {
		return nil, fs.ErrNotExist
	}
	if g != nil {
		if state, cause := g.State(); state == Failed && s.ctx.Err() == nil { // a new reader would be cut
			s.dropCorrupt(b, n, cause)
			return nil, fs.ErrNotExist
		}
		return g.NewReader(ctx, 0)
	}
	g = s.newGrowing(b.key.digest, size)
	g.verifying = true
	r, err := g.NewReader(ctx, 0) // before the verification starts and can end
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	begins := b.data == n && b.checking == nil && b.verified.IsZero() && !s.closed
	if begins {
		b.checking = g
		g.node = n
		s.retainFDLocked(n)
		s.running.Add(1)
	}
	shut := s.closed
	s.mu.Unlock()
	switch {
	case shut:
		return nil, errors.Join(os.ErrClosed, r.Close())
	case !begins:
		return nil, errors.Join(ErrClosed, r.Close()) // another reader has verified it
	}
	go func() {
		defer s.running.Done()
		s.check(b, n, g)
	}()
	return r, nil
}

// check hashes a blob while its readers follow.
func (s *Store) check(b *blob, n *node, g *Growing) {
	s.mu.Lock()
	p := n.path
	s.mu.Unlock()
	before := s.stampAt(p)
	err := g.follow(s.ctx, s.diskPath(p))
	if err != nil && s.ctx.Err() == nil { // before checking is cleared, so that no new reader starts
		s.dropCorrupt(b, n, err)
	}
	s.mu.Lock()
	b.checking = nil
	if err == nil && b.data == n {
		b.verified, b.stamp = s.now(), before
	}
	s.mu.Unlock()
	g.Close()
}

// follow hashes a complete file, and releases hashed bytes to the readers.
func (g *Growing) follow(ctx context.Context, name string) error {
	f, err := openQuietly(name)
	if err != nil {
		g.Finish(err)
		return err
	}
	g.mu.Lock()
	g.file, g.fileEnd = f, g.size
	g.mu.Unlock()
	buf := make([]byte, verifyChunk)
	for off := int64(0); off < g.size; {
		n, err := 0, g.store.fault("read")
		if err == nil {
			n, err = f.ReadAt(buf[:min(int64(len(buf)), g.size-off)], off)
		}
		if n > 0 {
			g.store.count.verifiedBytes.Add(int64(n))
			g.hash.Write(buf[:n])
			off += int64(n)
			g.advance(int64(n))
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil && off < g.size {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: %d of %d bytes are left", ErrCorrupt, off, g.size)
			}
			g.Finish(err)
			return err
		}
	}
	g.complete()
	_, err = g.State()
	return err
}

// startScrub starts the scrub, which runs until the store is closed.
func (s *Store) startScrub() {
	if s.opts.ScrubRate < 0 || !s.begin() {
		return
	}
	go func() {
		defer s.running.Done()
		for {
			s.scrub()
			if !s.sleep(time.Minute) {
				return
			}
		}
	}()
}

// scrub verifies every blob that has not been verified for Options.ScrubEvery. It starts with those that have never
// been verified.
func (s *Store) scrub() {
	due := s.now().Add(-s.opts.ScrubEvery)
	type item struct {
		blob *blob
		at   time.Time
	}
	var items []item
	s.mu.Lock()
	for _, b := range s.blobs {
		if b.data != nil && b.key.digest != "" && b.verified.Before(due) {
			items = append(items, item{b, b.verified})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(items, func(a, b item) int { return a.at.Compare(b.at) })
	for _, i := range items {
		if !s.scrubBlob(i.blob) {
			return
		}
	}
}

// scrubBlob verifies one blob at Options.ScrubRate. It returns false if the store is closed.
func (s *Store) scrubBlob(b *blob) bool {
	s.mu.Lock()
	n, size := b.data, b.size
	skip := n == nil || b.checking != nil
	p := ""
	if !skip {
		p = n.path
	}
	s.mu.Unlock()
	if skip {
		return true
	}
	before := s.stampAt(p)
	hash := b.key.digest.Algorithm().Hash()
	buf := make([]byte, verifyChunk)
	for off := int64(0); ; {
		k, err := s.scrubChunk(b, n, buf, off)
		hash.Write(buf[:k])
		off += int64(k)
		s.count.scrubbedBytes.Add(int64(k))
		if !s.sleep(time.Duration(float64(k) / float64(s.opts.ScrubRate) * float64(time.Second))) {
			return false
		}
		switch {
		case errors.Is(err, errGone):
			return true
		case errors.Is(err, io.EOF) && off == size && string(hash.Sum(nil)) == string(rawDigest(b.key.digest)):
			s.mu.Lock()
			if b.data == n {
				b.verified, b.stamp = s.now(), before
			}
			s.mu.Unlock()
			return true
		case err != nil:
			s.dropCorrupt(b, n, err)
			return true
		}
	}
}

var errGone = errors.New("the blob was dropped during the scrub")

// scrubChunk reads a chunk of a blob. It keeps no file open between two chunks, so that the blob can be evicted, and it
// does not mark the blob as used.
func (s *Store) scrubChunk(b *blob, n *node, buf []byte, off int64) (int, error) {
	s.tree.Lock() // prevents eviction
	defer s.tree.Unlock()
	s.mu.Lock()
	p, gone := n.path, b.data != n || s.blobs[b.key] != b
	s.mu.Unlock()
	if gone {
		return 0, errGone
	}
	f, err := openQuietly(s.diskPath(p))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(buf, off)
}

// openQuietly opens a file for reading, if possible without changing the access time, which records the last use.
func openQuietly(name string) (*os.File, error) {
	f, err := openRegular(name, syscall.O_NOATIME)
	if errors.Is(err, fs.ErrPermission) { // the file belongs to another user
		return openRegular(name, 0)
	}
	return f, err
}

// sleep waits for d. It returns false if the store is closed first.
func (s *Store) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}
