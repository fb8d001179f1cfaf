// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import "sync/atomic"

// A Result is the result of a hop sent by this replica, for metrics.
type Result string

// Results of hops.
const (
	Answered    Result = "answered"
	Unreachable Result = "unreachable" // no connection, or the connection was cut
	Silent      Result = "silent"      // no bytes for two seconds, not even answers to probes
	Untrusted   Result = "untrusted"   // no valid proof
	Unable      Result = "unable"      // other versions of the protocol
	Refused     Result = "refused"     // refused with a reason and a proof
	Busy        Result = "busy"        // too many hops to this member
	Canceled    Result = "canceled"    // canceled by the caller
)

// A Reason is why a request from another replica is refused, for metrics and for the answer.
type Reason string

// Reasons for refusals.
const (
	Missing     Reason = "missing"      // no hop header
	Malformed   Reason = "malformed"    //
	Version     Reason = "version"      // unknown version
	WrongMAC    Reason = "wrong_mac"    //
	WrongMember Reason = "wrong_member" // the hop is for another member
	Time        Reason = "time"         // too old, or clock skew
	Replayed    Reason = "replayed"     //
	Draining    Reason = "draining"     // the member is shutting down
)

// Stats are the gauges and counters of the peers.
type Stats struct {
	Members, Suspect, Out int // Members includes this replica and all states
	Hops                  map[Result]uint64
	Cut                   uint64 // bodies of hops that ended early
	Received              uint64 // verified hops, excluding probes
	Refusals              map[Reason]uint64
	Probes                uint64
	LookupFailures        uint64
	SecretFailures        uint64
}

type counts struct {
	hops                                  map[Result]*atomic.Uint64
	refusals                              map[Reason]*atomic.Uint64
	cut, received, probes, lookupFailures *atomic.Uint64
}

func newCounts() counts {
	c := counts{
		hops: map[Result]*atomic.Uint64{}, refusals: map[Reason]*atomic.Uint64{},
		cut: new(atomic.Uint64), received: new(atomic.Uint64), probes: new(atomic.Uint64), lookupFailures: new(atomic.Uint64),
	}
	for _, r := range []Result{Answered, Unreachable, Silent, Untrusted, Unable, Refused, Busy, Canceled} {
		c.hops[r] = new(atomic.Uint64)
	}
	for _, r := range []Reason{Missing, Malformed, Version, WrongMAC, WrongMember, Time, Replayed, Draining} {
		c.refusals[r] = new(atomic.Uint64)
	}
	return c
}

// Stats returns the current gauges, and the counters since New.
func (p *Peers) Stats() Stats {
	s := Stats{
		Hops: map[Result]uint64{}, Refusals: map[Reason]uint64{}, Cut: p.counts.cut.Load(), Received: p.counts.received.Load(),
		Probes: p.counts.probes.Load(), LookupFailures: p.counts.lookupFailures.Load(), SecretFailures: p.secret.failures.Load(),
	}
	for _, m := range p.members() {
		s.Members++
		switch m.state() {
		case Suspect:
			s.Suspect++
		case Out:
			s.Out++
		}
	}
	for r, n := range p.counts.hops {
		s.Hops[r] = n.Load()
	}
	for r, n := range p.counts.refusals {
		s.Refusals[r] = n.Load()
	}
	return s
}
