// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import "time"

// leavingFor is how long a draining member is not asked again. It is short, since the replica that replaces the member
// has the same name.
const leavingFor = 5 * time.Second

// Drain makes this replica answer hops only from its store. The other replicas ask the next member for everything else.
func (p *Peers) Drain() { p.draining.Store(true) }

// markLeaving records that the member is draining.
func (m *member) markLeaving() { m.leavingUntil.Store(time.Now().Add(leavingFor).UnixNano()) }

// isLeaving reports whether the member is known to be draining.
func (m *member) isLeaving() bool {
	until := m.leavingUntil.Load()
	return until != 0 && time.Now().UnixNano() < until
}
