// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"container/list"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// linkRoom is the room that the links of a blob may need, with their directories.
const linkRoom = 32 * block

// Held is a blob, manifest or tag of a repository that is in the store.
type Held struct {
	Repository string
	Digest     digest.Digest // of a blob or manifest
	Tag        string        // of a tag
	Layer      bool          // it is a blob
	Size       int64         // of the blob or manifest
	Used       time.Time     // last use
}

// Held returns the blobs, manifests and tags of all repositories, in any order. It omits blobs with another digest than
// sha256, which Growing.Keep does not store.
func (u *Upstream) Held() []Held {
	s := u.store
	now := s.now()
	type link struct {
		path string
		size int64
		used time.Time
	}
	var links []link
	s.mu.Lock()
	for _, b := range s.blobs {
		if b.data == nil || b.key.upstream != u.name {
			continue
		}
		used := b.used
		if b.place == nil { // it is being read
			used = now
		}
		for n := range b.links {
			links = append(links, link{n.path, b.size, used})
		}
	}
	s.mu.Unlock()
	var all []Held // parsed without the lock, which clients need
	for _, l := range links {
		if h, ok := parseLink(strings.TrimPrefix(l.path, u.root)); ok {
			h.Size, h.Used = l.size, l.used
			all = append(all, h)
		}
	}
	return all
}

// parseLink returns what a path of distribution links to a repository. It returns false for other links.
func parseLink(rest string) (Held, bool) {
	rest, isRepository := strings.CutPrefix(rest, reposDir)
	repository, link, _ := strings.Cut(rest, "/_") // no component of a repository's name begins with _
	parts := strings.Split(link, "/")
	h := Held{Repository: repository}
	switch {
	case !isRepository:
		return Held{}, false
	case len(parts) == 4 && parts[0] == "layers" && parts[1] == string(digest.Canonical):
		h.Digest, h.Layer = digest.Digest(parts[1]+":"+parts[2]), true
	case len(parts) == 5 && parts[0] == "manifests" && parts[1] == "revisions":
		h.Digest = digest.Digest(parts[2] + ":" + parts[3])
	case len(parts) == 5 && parts[0] == "manifests" && parts[1] == "tags" && parts[3] == "current":
		h.Tag = parts[2]
	default:
		return Held{}, false
	}
	return h, true
}

// Outlived reports whether the store had blobs of an earlier process when it was opened. Then it probably outlives this
// process, too.
func (s *Store) Outlived() bool { return s.outlived }

// FreezeUse keeps the last use of all blobs as it is, in memory and on disk: from now on, reading a blob does not count as
// its use. Other replicas are about to read all blobs.
func (s *Store) FreezeUse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = true
}

// Holds reports whether a repository has a blob, or any repository if the name is empty. Unlike Has, it does not mark
// the blob as used.
func (u *Upstream) Holds(repository string, d digest.Digest) bool {
	if repository != "" {
		return u.find(repository, d) != nil
	}
	b, _ := u.blobOf(dataPath(d))
	return b != nil
}

// HasRoom reports whether the store can make room for a blob by evicting only blobs whose last use was before the given
// time. For a blob that another replica keeps, too (relay), it evicts only such blobs.
func (u *Upstream) HasRoom(size int64, used time.Time, relay bool) bool {
	s := u.store
	need := roundUp(size+size/1024) + block + linkRoom
	s.mu.Lock()
	defer s.mu.Unlock()
	room := s.opts.Limit - s.used
	lists := []*list.List{s.relays, s.order} // in the order of eviction
	if relay {
		lists = lists[:1]
	}
	for _, l := range lists {
		for e := l.Back(); e != nil && room < need; e = e.Prev() {
			b := e.Value.(*blob)
			if !b.used.Before(used) {
				return false
			}
			room += b.charge
		}
	}
	return room >= need
}

// SetUsed sets the last use of a blob that was stored for another reason than a client's request. It has no effect on a
// blob that is being read.
func (u *Upstream) SetUsed(d digest.Digest, used time.Time) {
	s := u.store
	s.mu.Lock()
	b := s.blobs[blobKey{upstream: u.name, digest: d}]
	if b == nil || b.data == nil || b.place == nil {
		s.mu.Unlock()
		return
	}
	b.used, b.touched = used, used
	s.placeLocked(b)
	p := b.data.path
	s.mu.Unlock()
	_ = os.Chtimes(s.diskPath(p), used, time.Time{})
}

// placeLocked moves a blob to the place in its LRU list that its last use determines.
func (s *Store) placeLocked(b *blob) {
	l := s.orderOf(b)
	for e := l.Front(); e != nil; e = e.Next() {
		if other := e.Value.(*blob); other != b && other.used.Before(b.used) {
			l.MoveBefore(b.place, e)
			return
		}
	}
	l.MoveToBack(b.place)
}
