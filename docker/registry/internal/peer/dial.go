// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"
)

const (
	// connectLimit is how long connecting may take, and looking up an address if an earlier address is known.
	connectLimit = 500 * time.Millisecond
	// lookupPatience is how long looking up an address may take if no earlier address is known.
	lookupPatience = 2 * time.Second
	// otherFamilyAfter is the delay before the second address family is tried for a member with both.
	otherFamilyAfter = 100 * time.Millisecond
	// idleLimit is how long an idle connection is kept. It is less than keepAliveAfter, so that idle connections send
	// no keep-alive probes.
	idleLimit = 10 * time.Second
	// keepAliveAfter and keepAliveEvery detect dead connections on which an answer is due: the member may have moved to
	// another address.
	keepAliveAfter = 12 * time.Second
	keepAliveEvery = 3 * time.Second
	keepAliveCount = 3
	// idleConnections is the maximum number of idle connections to one member.
	idleConnections = 32
	// answerHeaderLimit is the maximum size of an answer's header, in bytes.
	answerHeaderLimit = 32 << 10
)

// setTransports sets the transports for hops and probes.
func (p *Peers) setTransports() {
	transport := func() *http.Transport {
		var protocols http.Protocols
		protocols.SetHTTP1(true)
		t := &http.Transport{
			DialContext: p.dial, DisableCompression: true, MaxIdleConnsPerHost: idleConnections, IdleConnTimeout: idleLimit,
			MaxResponseHeaderBytes: answerHeaderLimit, Protocols: &protocols, ReadBufferSize: 32 << 10,
		}
		p.idle = append(p.idle, t)
		return t
	}
	p.hops = transport()
	fresh := transport()
	fresh.DisableKeepAlives = true
	p.fresh = fresh
}

// closeIdle closes idle connections.
func (p *Peers) closeIdle() { p.idle[0].CloseIdleConnections() }

// dial connects to the member whose name is the host in the address.
func (p *Peers) dial(ctx context.Context, _, address string) (net.Conn, error) {
	name, _, _ := net.SplitHostPort(address)
	m := p.find(name)
	if m == nil {
		return nil, &Error{Result: Unreachable, Member: name, Err: errNoMember}
	}
	return m.connect(ctx)
}

// connect looks up the member's addresses and connects to one of them. If that fails, the member is out.
func (m *member) connect(ctx context.Context) (net.Conn, error) {
	last, limit := m.last.Load(), lookupPatience
	if last != nil {
		limit = connectLimit
	}
	conn, resolved, err := m.dialAddress(ctx, *m.target.Load(), limit)
	if err != nil && !resolved && last != nil && !isNotFound(err) && ctx.Err() == nil {
		// A DNS outage says nothing about the member. Its proof shows whether it still has this address.
		conn, resolved, err = m.dialAddress(ctx, *last, limit)
	}
	if err == nil {
		address := conn.RemoteAddr().String()
		m.last.Store(&address)
		return conn, nil
	}
	switch {
	case ctx.Err() != nil || isLocalError(err):
	case resolved || isNotFound(err):
		m.markOut(err.Error())
	default:
		m.markSuspect(0, err.Error()) // DNS is down, and no address is known
	}
	return nil, &Error{Result: Unreachable, Member: m.name, Err: err}
}

// dialAddress connects to an address. It also reports whether the host was looked up.
func (m *member) dialAddress(ctx context.Context, address string, lookup time.Duration) (net.Conn, bool, error) {
	limited, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sockets
	host, _, _ := net.SplitHostPort(address)
	isAddress := net.ParseIP(host) != nil
	defer afterSteps(lookup, func() bool {
		if all.isEmpty() && !isAddress { // nothing was tried: the lookup is slow, or this process is starved of CPU
			cancel(errLookupLimit)
		}
		return true
	})()
	all.begin = func() (stop func()) {
		return afterSteps(connectLimit, func() bool {
			if all.isConnected() {
				return false // this process is starved of CPU
			}
			cancel(errConnectLimit)
			return true
		})
	}
	defer all.end()
	d := net.Dialer{
		Resolver: m.peers.resolver, FallbackDelay: otherFamilyAfter, Control: all.add,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveAfter, Interval: keepAliveEvery, Count: keepAliveCount},
	}
	conn, err := d.DialContext(limited, "tcp", address)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		err = context.Cause(limited)
	}
	return conn, !all.isEmpty(), err
}

// isNotFound reports whether a DNS server answered that the name does not exist.
func isNotFound(err error) bool {
	lookup, ok := errors.AsType[*net.DNSError](err)
	return ok && lookup.IsNotFound
}

// isLocalError reports whether connecting failed because this process lacks a resource.
func isLocalError(err error) bool {
	for _, own := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, own) {
			return true
		}
	}
	return false
}
