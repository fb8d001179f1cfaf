// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"cmp"
	"slices"
)

// hashName returns the FNV-1a hash of a name or key. It must be the same in every replica and version.
func hashName(text string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	return mix(h)
}

// mix spreads differences between similar numbers over all bits. It is the finalizer of SplitMix64.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// A Rank is a candidate for the owner of a key.
type Rank struct {
	Name    string
	Self    bool
	Suspect bool // silent for a second; ask the next member, too
	Leaving bool // draining; ask it only for stored content
}

// Rank returns the members in the order in which they should be asked for a key. The first one owns the key. All
// replicas with the same members get the same order (rendezvous hashing). Members that are out are omitted. This
// replica is always included, and members after it need not be asked.
func (p *Peers) Rank(key string) []Rank {
	type scored struct {
		score uint64
		m     *member
	}
	var few [16]scored // avoids an allocation for up to 16 members
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
