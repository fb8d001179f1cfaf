// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"errors"
	"io"
	"io/fs"
)

// memoryItem is the content of a small blob in memory.
type memoryItem struct {
	blob  *blob
	bytes []byte
}

// cachedLocked returns the content of a blob if it is in memory, or nil.
func (s *Store) cachedLocked(b *blob) []byte {
	if b.cached == nil {
		return nil
	}
	s.cached.MoveToFront(b.cached)
	return b.cached.Value.(*memoryItem).bytes
}

// cacheLocked keeps the verified content of a small blob in memory, and evicts the least recently used ones.
func (s *Store) cacheLocked(b *blob, content []byte) {
	size := int64(len(content))
	if size > s.opts.SmallLimit || size > s.opts.MemoryLimit || b.cached != nil || s.blobs[b.key] != b {
		return
	}
	own := append(make([]byte, 0, size), content...)
	b.cached = s.cached.PushFront(&memoryItem{b, own})
	s.memory += size
	for s.memory > s.opts.MemoryLimit {
		s.uncacheLocked(s.cached.Back().Value.(*memoryItem).blob)
	}
}

// uncacheLocked removes the content of a blob from memory.
func (s *Store) uncacheLocked(b *blob) {
	if b.cached == nil {
		return
	}
	s.memory -= int64(len(b.cached.Value.(*memoryItem).bytes))
	s.cached.Remove(b.cached)
	b.cached = nil
}

// readSmall reads a small blob into memory. It returns the content only if it matches the digest.
func (s *Store) readSmall(b *blob, n *node, verified bool) ([]byte, error) {
	f, n, err := s.openWhole(b, n)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(f)
	err = errors.Join(err, f.Close())
	s.releaseFD(n)
	if isResourceError(err) {
		return nil, err
	}
	if !verified && err == nil {
		s.count.verifiedBytes.Add(int64(len(content)))
	}
	if d := b.key.digest; err != nil || d.Algorithm().FromBytes(content) != d {
		s.dropCorrupt(b, n, err)
		return nil, fs.ErrNotExist
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.data == n {
		b.verified = s.now()
		s.cacheLocked(b, content)
	}
	return content, nil
}

// dropCorrupt drops a blob with corrupt or unreadable data, unless the data has been replaced.
func (s *Store) dropCorrupt(b *blob, n *node, err error) {
	s.mu.Lock()
	same := b.data == n && s.blobs[b.key] == b
	s.mu.Unlock()
	if !same || isResourceError(err) {
		return
	}
	s.log.Error("Dropped a stored blob that is corrupt or unreadable", "upstream", b.key.upstream, "digest", b.key.digest, "error", err)
	if _, ok := s.drop(b, false); ok {
		s.count.corrupt.Add(1)
	}
}
