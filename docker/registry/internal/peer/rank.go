// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"cmp"
	"slices"
)

// hashName returns a hash of a name or key that is the same in every replica and version (FNV-1a).
func hashName(text string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	return mix(h)
}

// mix spreads the differences of similar numbers over all bits (the finalizer of SplitMix64).
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// A Rank is a member's place among those that may own a key.
type Rank struct {
	Name    string
	Self    bool
	Suspect bool // it has been silent for a second: best asked together with the next
	Leaving bool // it ends soon: it is asked only for what it has
}

// Rank returns the members in the order in which they own a key: the first that is asked with success serves it. Each
// replica with the same members finds the same order (rendezvous hashing). Members that are out are left out; this replica
// never is, and what comes behind it need not be asked.
func (p *Peers) Rank(key string) []Rank {
	type scored struct {
		score uint64
		m     *member
	}
	var few [16]scored // no allocation for as many members
	all := few[:0]
	hashed := hashName(key)
	for _, m := range p.members() {
		if m.state() != Out {
			all = append(all, scored{mix(hashed ^ m.hash), m})
		}
	}
	slices.SortFunc(all, func(a, b scored) int {
		if a.score != b.score {
			return cmp.Compare(b.score, a.score)
		}
		return cmp.Compare(a.m.name, b.m.name)
	})
	ranks := make([]Rank, len(all))
	for i, s := range all {
		ranks[i] = Rank{Name: s.m.name, Self: s.m == p.self, Suspect: s.m.state() == Suspect, Leaving: s.m.isLeaving()}
	}
	return ranks
}
