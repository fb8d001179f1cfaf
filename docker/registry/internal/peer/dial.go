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
	// connectLimit is how long a connect may take, and a lookup of an address if the last one is known.
	connectLimit = 500 * time.Millisecond
	// lookupPatience is how long a lookup may take otherwise.
	lookupPatience = 2 * time.Second
	// otherFamilyAfter is when a member with addresses of both families is tried by the other one too.
	otherFamilyAfter = 100 * time.Millisecond
	// idleLimit is how long an idle connection is kept. It is less than keepAliveAfter, so that none is ever probed.
	idleLimit = 10 * time.Second
	// keepAliveAfter and keepAliveEvery find a connection dead on which an answer is due: its member may live elsewhere.
	keepAliveAfter = 12 * time.Second
	keepAliveEvery = 3 * time.Second
	keepAliveCount = 3
	// idleConnections is how many idle connections to one member are kept.
	idleConnections = 32
	// answerHeaderLimit is the most bytes of an answer's header.
	answerHeaderLimit = 32 << 10
)

// setTransports sets the transports of hops and probes.
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

// closeIdle closes the idle connections of hops.
func (p *Peers) closeIdle() { p.idle[0].CloseIdleConnections() }

// dial connects to the member whose name is the host of an address.
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
		// The DNS is out, which says nothing about the member. Its proof will say whether it is still there.
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
		m.markSuspect(0, err.Error()) // the DNS is out, and no address is known
	}
	return nil, &Error{Result: Unreachable, Member: m.name, Err: err}
}

// dialAddress connects to an address. It also reports whether the lookup of the host succeeded.
func (m *member) dialAddress(ctx context.Context, address string, lookup time.Duration) (net.Conn, bool, error) {
	limited, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sockets
	host, _, _ := net.SplitHostPort(address)
	isAddress := net.ParseIP(host) != nil
	defer afterSteps(lookup, func() bool {
		if all.isEmpty() && !isAddress { // an address needs no lookup: this process is starved
			cancel(errLookupLimit)
		}
		return true
	})()
	all.begin = func() (stop func()) {
		return afterSteps(connectLimit, func() bool {
			if all.isConnected() {
				return false // this process is starved
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

// isNotFound reports whether an error is a DNS answer that the name does not exist.
func isNotFound(err error) bool {
	lookup, ok := errors.AsType[*net.DNSError](err)
	return ok && lookup.IsNotFound
}

// isLocalError reports whether a connect failed because this process lacks a resource.
func isLocalError(err error) bool {
	for _, own := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, own) {
			return true
		}
	}
	return false
}
