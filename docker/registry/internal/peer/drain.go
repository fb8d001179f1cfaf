// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import "time"

// leavingFor is how long a member that has said that it drains is not asked again. It is short: a replica that takes the place
// of the other has its name.
const leavingFor = 5 * time.Second

// Drain makes this replica answer hops only from its store. The others ask the next member for the rest.
func (p *Peers) Drain() { p.draining.Store(true) }

// markLeaving notes that the member drains.
func (m *member) markLeaving() { m.leavingUntil.Store(time.Now().Add(leavingFor).UnixNano()) }

// isLeaving reports whether the member is known to drain.
func (m *member) isLeaving() bool {
	until := m.leavingUntil.Load()
	return until != 0 && time.Now().UnixNano() < until
}
