// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"github.com/opencontainers/go-digest"
)

// KeepRelay is like Keep, for a blob that another replica has, too. Such blobs are evicted first. It does not change a
// blob that is already in the store.
func (g *Growing) KeepRelay(u *Upstream, repository string) error {
	before, _ := u.blobOf(dataPath(g.digest))
	err := g.Keep(u, repository)
	if err == nil && before == nil {
		u.SetRelay(g.digest, true)
	}
	return err
}

// SetRelay sets whether another replica has a blob, too. Such blobs are evicted first. A restart resets this. SetRelay
// has no effect if the store does not have the blob.
func (u *Upstream) SetRelay(d digest.Digest, relay bool) {
	s := u.store
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blobs[blobKey{upstream: u.name, digest: d}]
	if b == nil || b.relay == relay {
		return
	}
	if b.place != nil {
		s.orderOf(b).Remove(b.place)
		b.relay = relay
		b.place = s.orderOf(b).PushFront(b)
		s.placeLocked(b)
		return
	}
	b.relay = relay
}
