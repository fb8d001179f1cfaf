// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import "sync/atomic"

// A Result is the result of a hop that this replica has sent, for metrics.
type Result string

// Results of hops.
const (
	Answered    Result = "answered"
	Unreachable Result = "unreachable" // no connection, or it was cut
	Silent      Result = "silent"      // nothing came for two seconds, nor for its probes
	Untrusted   Result = "untrusted"   // no proof
	Unable      Result = "unable"      // another version of the protocol
	Refused     Result = "refused"     // with a reason, and a proof
	Busy        Result = "busy"        // too many hops to this member
	Canceled    Result = "canceled"    // by the caller
)

// A Reason is why a request of another replica is refused, for metrics and in its answer.
type Reason string

// Reasons of refusals.
const (
	Missing     Reason = "missing"      // no header of a hop
	Malformed   Reason = "malformed"    //
	Version     Reason = "version"      // not known
	WrongMAC    Reason = "wrong_mac"    //
	WrongMember Reason = "wrong_member" // it is for another one
	Time        Reason = "time"         // too old, or the clocks are apart
	Replayed    Reason = "replayed"     //
	Draining    Reason = "draining"     // the member ends soon
)

// Stats are the gauges and counters of the peers.
type Stats struct {
	Members, Suspect, Out int // Members has this replica, and all others
	Hops                  map[Result]uint64
	Cut                   uint64 // bodies of answered hops that ended early
	Received              uint64 // verified hops, without probes
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

// Stats returns the current gauges and the counters since New.
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
