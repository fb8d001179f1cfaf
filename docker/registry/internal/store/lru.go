// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"container/list"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"
)

// touchEvery is the precision with which the order of use survives a restart.
const touchEvery = time.Minute

// orderOf returns the LRU list to which a blob belongs.
func (s *Store) orderOf(b *blob) *list.List {
	if b.relay {
		return s.relays
	}
	return s.order
}

// orderLocked makes a blob the most recently used one of its LRU list. It removes a blob that has readers from the
// list.
func (s *Store) orderLocked(b *blob) {
	can := s.blobs[b.key] == b && (b.data == nil || b.data.open == 0)
	switch {
	case can && b.place == nil:
		if !s.frozen || b.used.IsZero() {
			b.used = s.now()
		}
		b.place = s.orderOf(b).PushFront(b)
		s.evictable += b.charge
	case !can && b.place != nil:
		s.orderOf(b).Remove(b.place)
		b.place = nil
		s.evictable -= b.charge
	}
}

// touch makes a blob the most recently used one. It also sets the file's access time, from which the order is restored
// after a restart. It keeps the modification time, which shows whether another process has written to the file.
func (s *Store) touch(b *blob) {
	now := s.now()
	s.mu.Lock()
	if s.frozen {
		s.mu.Unlock()
		return
	}
	b.used = now
	if b.place != nil {
		s.orderOf(b).MoveToFront(b.place)
	}
	stale := now.Sub(b.touched) >= touchEvery && b.data != nil
	var p string
	if stale {
		b.touched = now
		p = b.data.path
	}
	s.mu.Unlock()
	if stale {
		_ = os.Chtimes(s.diskPath(p), now, time.Time{})
	}
}

// touchNode is touch for the blob of a file.
func (s *Store) touchNode(n *node) {
	s.mu.Lock()
	b := n.blob
	s.mu.Unlock()
	if b != nil {
		s.touch(b)
	}
}

// usedAt returns the time of the last use, as set by touch.
func usedAt(fi fs.FileInfo) time.Time {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Atim.Unix())
	}
	return fi.ModTime()
}

// orderByUse restores the LRU lists from the times of the last use.
func (s *Store) orderByUse(used map[*blob]time.Time) {
	byUse := make([]*blob, 0, len(s.blobs))
	for _, b := range s.blobs {
		b.used, b.touched = used[b], used[b]
		byUse = append(byUse, b)
	}
	slices.SortFunc(byUse, func(a, b *blob) int { return a.touched.Compare(b.touched) })
	for _, b := range byUse {
		if b.place != nil {
			s.order.MoveToFront(b.place)
		}
	}
}

// reserve reserves n bytes, and reports whether there was room. It evicts the least recently used blobs, unless evicting all of
// them would not be enough.
func (s *Store) reserve(n int64) bool {
	if s.take(n) {
		return true
	}
	s.evicting.Lock()
	defer s.evicting.Unlock()
	for {
		s.mu.Lock()
		if s.takeLocked(n) {
			s.mu.Unlock()
			return true
		}
		possible := s.used-s.evictable+n <= s.opts.Limit
		s.mu.Unlock()
		if !possible || !s.evictOldest(nil) {
			return false
		}
	}
}

// shrink evicts blobs until the store is within its limit, which may be lower than before.
func (s *Store) shrink() {
	s.evicting.Lock()
	defer s.evicting.Unlock()
	for !s.take(0) && s.evictOldest(nil) {
	}
}

// evict evicts at least n bytes, if possible, because the disk is full. It reports whether it evicted anything.
func (s *Store) evict(n int64) bool {
	s.evicting.Lock()
	defer s.evicting.Unlock()
	var freed int64
	for freed < n && s.evictOldest(&freed) {
	}
	s.log.Warn("The disk is full although the store is within its limit", "path", s.opts.Path, "used", s.Stats().UsedBytes, "limit", s.opts.Limit, "dropped", freed)
	return freed > 0
}

// evictOldest evicts the least recently used blob without readers, and reports whether there was one.
func (s *Store) evictOldest(total *int64) bool {
	s.mu.Lock()
	back := s.relays.Back()
	if back == nil {
		back = s.order.Back()
	}
	s.mu.Unlock()
	if back == nil {
		return false
	}
	freed, ok := s.drop(back.Value.(*blob), true)
	if total != nil {
		*total += freed
	}
	if ok {
		s.count.evictions.Add(1)
		s.count.evictedBytes.Add(freed)
	}
	return true
}
