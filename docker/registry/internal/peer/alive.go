// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// suspectAfter is how long a member may send nothing while bytes are due before it is suspect.
	suspectAfter = time.Second
	// outAfter is how long a member may send nothing before it is out.
	outAfter = 2 * time.Second
	// probeEvery is the interval between probes of a suspect member, and the first interval for a member that is out.
	probeEvery = 500 * time.Millisecond
	// probeAtMost is the maximum interval between probes of a member that is out.
	probeAtMost = 2 * time.Second
)

// State is the liveness of a member.
type State int32

// States of a member.
const (
	In State = iota
	Suspect
	Out
)

// String returns the name of the state, as in logs.
func (s State) String() string { return [...]string{"in", "suspect", "out"}[s] }

// A member is one replica, as seen by this one.
type member struct {
	peers        *Peers
	name         string
	hash         uint64
	target       atomic.Pointer[string] // host and port
	last         atomic.Pointer[string] // address of the last connection, used if the name cannot be looked up
	status       atomic.Int32
	slots        chan struct{} // limits the number of hops
	silent       atomic.Bool   // the member is out because it has sent nothing
	leavingUntil atomic.Int64  // the member counts as draining until this time, in Unix nanoseconds
	probeSoon    chan struct{} // signals that a hop of the member came: probe it now

	mu      sync.Mutex
	dropped bool
	end     context.CancelFunc // cancels the function running for the state
}

// State returns the state of a member, or Out if there is no member with this name.
func (p *Peers) State(name string) State {
	if m := p.find(name); m != nil {
		return m.state()
	}
	return Out
}

func newMember(p *Peers, name string) *member {
	return &member{
		peers: p, name: name, hash: hashName(name), slots: make(chan struct{}, hopsLimit), probeSoon: make(chan struct{}, 1),
		end: func() {},
	}
}

func (m *member) state() State { return State(m.status.Load()) }

// noteBytes records that verified bytes from the member arrived. They do not revive a member that is out, which must
// answer a probe: the bytes may be the rest of a transfer from a process that accepts no new requests.
func (m *member) noteBytes() {
	if m.state() == Suspect {
		m.setState(In, "it answers", func(s State) bool { return s == Suspect }, nil)
	}
}

// noteHop records that a verified hop from the member arrived.
func (m *member) noteHop() {
	m.noteBytes()
	if m.state() == Out {
		select {
		case m.probeSoon <- struct{}{}:
		default: // a probe is already requested
		}
	}
}

// noteProof records that the member has answered with a proof on a new connection.
func (m *member) noteProof() {
	m.setState(In, "it answers", func(s State) bool { return s != In }, nil)
}

// markSuspect marks the member as suspect, because it has been silent for some time while bytes were due.
func (m *member) markSuspect(silent time.Duration, why string) {
	m.setState(Suspect, why, func(s State) bool { return s == In }, func(ctx context.Context) { m.watchSuspect(ctx, silent, why) })
}

// markOut marks the member as out, because it cannot be connected to.
func (m *member) markOut(why string) {
	m.setState(Out, why, func(s State) bool { return s != Out }, m.watchOut)
}

// setState changes the state if from returns true for the current one, and starts the function that runs in the new
// state.
func (m *member) setState(to State, why string, from func(State) bool, run func(context.Context)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.state()
	if m.dropped || m == m.peers.self || !from(was) {
		return
	}
	m.end()
	m.silent.Store(to == Out && was == Suspect)
	m.status.Store(int32(to))
	m.end = func() {}
	if run != nil {
		var ctx context.Context
		ctx, m.end = context.WithCancel(m.peers.ctx)
		m.peers.spawn(func() { run(ctx) })
	}
	if to == Out || was == Out {
		m.peers.closeIdle() // it may return with another address
		m.peers.log.Info("Peer is "+to.String(), "name", m.name, "reason", why)
	}
}

// drop stops the function running for a member that is no longer listed.
func (m *member) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dropped = true
	m.end()
}

// watchSuspect probes a suspect member until it has been silent for too long. An answer cancels ctx.
func (m *member) watchSuspect(ctx context.Context, silent time.Duration, why string) {
	silence, due := newStepClock(silent), silent
	var probes []*exchange
	for over := false; !over; over = silence.tick(outAfter) && !delayed(probes, silence.sum) {
		if silence.sum >= due {
			due += probeEvery
			x := m.newProbe(ctx)
			probes = append(probes, x)
			m.peers.spawn(x.probe) // the last probe may still be waiting
		}
		if !waitStep(ctx) {
			return
		}
	}
	m.setState(Out, why+", and no proof has come since", func(s State) bool { return s == Suspect && ctx.Err() == nil }, m.watchOut)
}

// delayed reports whether this process itself is late: it has not yet read an answer to a probe, or not yet sent a
// probe.
func delayed(probes []*exchange, silent time.Duration) bool {
	if slices.ContainsFunc(probes, (*exchange).hasUnread) {
		return true
	}
	sent := func(x *exchange) bool { return x.sent.Load() }
	return silent < 3*outAfter && !slices.ContainsFunc(probes, sent)
}

// watchOut probes a member that is out until it answers, which cancels ctx.
func (m *member) watchOut(ctx context.Context) {
	for delay := probeEvery; ; delay = min(2*delay, probeAtMost) {
		timer := time.NewTimer(delay*9/10 + rand.N(delay/10))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-m.probeSoon:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
		limited, cancel := context.WithCancel(ctx)
		stop := afterSteps(connectLimit+suspectAfter, func() bool {
			cancel()
			return true
		})
		m.newProbe(limited).probe()
		stop()
		cancel()
	}
}
