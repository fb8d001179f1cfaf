// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// A zone is a kind of addresses to which an upstream has no reason to lead, since only this machine or its neighbours have them.
type zone uint32

const (
	metadata zone = 1 << iota // where clouds give credentials to their machines
	loopback
	linkLocal
	multicast
)

// metadataAddresses are those of AWS, Google, Azure and Alibaba, and of AWS's containers.
var metadataAddresses = map[netip.Addr]bool{
	netip.MustParseAddr("169.254.169.254"): true, netip.MustParseAddr("fd00:ec2::254"): true,
	netip.MustParseAddr("169.254.170.2"): true, netip.MustParseAddr("fd00:ec2::23"): true,
	netip.MustParseAddr("fd20:ce::254"): true, netip.MustParseAddr("168.63.129.16"): true, netip.MustParseAddr("100.100.100.200"): true,
}

// zoneOf returns the zone of an address, or 0 if it is in none. Private addresses are in none, since registries keep blobs there.
func zoneOf(a netip.Addr) zone {
	a = a.Unmap().WithZone("")
	switch {
	case metadataAddresses[a]:
		return metadata
	case a.IsLoopback(), a.IsUnspecified():
		return loopback
	case a.IsLinkLocalUnicast():
		return linkLocal
	case a.IsMulticast():
		return multicast
	}
	return 0
}

// A guard refuses connections to where an upstream leads, by a redirect or the realm of its challenge, if that is in a zone in
// which the upstream itself is not. It checks addresses, so that a name that resolves to one does not help.
type guard struct {
	host  string        // the upstream's
	zones atomic.Uint32 // in which it is
}

func newGuard(root *url.URL) *guard {
	g := &guard{host: root.Hostname()}
	if a, err := netip.ParseAddr(g.host); err == nil {
		g.zones.Store(uint32(zoneOf(a)))
	}
	return g
}

// A destination is where a request goes: to the upstream or to where that leads.
type destination struct {
	foreign bool        // to another host than the upstream
	proxied atomic.Bool // by a proxy, whose address is then the one that is dialled
}

type destinationKey struct{}

// check returns the context for a request, or the error if it must not be sent. Behind a proxy it knows only literal addresses.
func (g *guard) check(ctx context.Context, to *url.URL) (context.Context, *requestError) {
	j := &destination{foreign: !strings.EqualFold(to.Hostname(), g.host)}
	if a, err := netip.ParseAddr(to.Hostname()); err == nil && j.foreign && g.forbids(zoneOf(a)) {
		return ctx, g.forbiddenError(to.Hostname())
	}
	return context.WithValue(ctx, destinationKey{}, j), nil
}

// forbids reports whether a zone is forbidden.
func (g *guard) forbids(z zone) bool { return z&^zone(g.zones.Load()) != 0 }

// forbiddenError returns the error for a forbidden address.
func (g *guard) forbiddenError(address string) *requestError {
	return &requestError{invalid: true, message: "the upstream leads to " + address + ", an address of this machine, its neighbours or its cloud"}
}

// proxy returns the proxy for a request, and notes that it uses one.
func (g *guard) proxy(req *http.Request) (*url.URL, error) {
	through, err := http.ProxyFromEnvironment(req)
	if j, ok := req.Context().Value(destinationKey{}).(*destination); ok && through != nil {
		j.proxied.Store(true)
	}
	return through, err
}

// dial connects to an address unless it is forbidden.
func (g *guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	j, ok := ctx.Value(destinationKey{}).(*destination)
	d := net.Dialer{Timeout: 10 * time.Second, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		switch {
		case err != nil:
			return err
		case ok && j.proxied.Load():
		case !ok || !j.foreign:
			g.zones.Or(uint32(zoneOf(to.Addr())))
		case g.forbids(zoneOf(to.Addr())):
			return g.forbiddenError(to.Addr().String())
		}
		return nil
	}}
	return d.DialContext(ctx, network, address)
}
