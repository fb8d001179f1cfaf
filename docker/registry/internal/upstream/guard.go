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

// A zone is a class of addresses to which an upstream has no reason to redirect, since they are reachable only from
// this machine or its local network.
type zone uint32

const (
	metadata zone = 1 << iota // metadata services of clouds, which hand out credentials
	loopback
	linkLocal
	multicast
)

// metadataAddresses are the metadata services of AWS (EC2, ECS and EKS), Google Cloud, Azure and Alibaba Cloud.
var metadataAddresses = map[netip.Addr]bool{
	netip.MustParseAddr("169.254.169.254"): true, netip.MustParseAddr("fd00:ec2::254"): true,
	netip.MustParseAddr("169.254.170.2"): true, netip.MustParseAddr("fd00:ec2::23"): true,
	netip.MustParseAddr("fd20:ce::254"): true, netip.MustParseAddr("168.63.129.16"): true, netip.MustParseAddr("100.100.100.200"): true,
}

// zoneOf returns the zone of an address, or 0. Private addresses have no zone, since private registries may store blobs
// there.
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

// A guard refuses connections to the targets of redirects and the token servers of an upstream if they are in a zone to
// which the upstream itself does not belong. It checks the address that is dialled, so that a DNS name cannot bypass
// it.
type guard struct {
	host  string        // host of the upstream
	zones atomic.Uint32 // zones of the upstream's addresses
}

func newGuard(root *url.URL) *guard {
	g := &guard{host: root.Hostname()}
	if a, err := netip.ParseAddr(g.host); err == nil {
		g.zones.Store(uint32(zoneOf(a)))
	}
	return g
}

// A destination is the target of a request: the upstream, a redirect or a token server.
type destination struct {
	foreign bool        // another host than the upstream
	proxied atomic.Bool // sent through a proxy, whose address is dialled instead
}

type destinationKey struct{}

// check returns the context for a request, or an error if the request must not be sent. With a proxy, it can check only
// literal addresses.
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
	return &requestError{invalid: true, message: "the upstream redirects to " + address + ", which is a loopback, link-local, multicast or metadata address"}
}

// proxy returns the proxy for a request, and records whether there is one.
func (g *guard) proxy(req *http.Request) (*url.URL, error) {
	through, err := http.ProxyFromEnvironment(req)
	if j, ok := req.Context().Value(destinationKey{}).(*destination); ok && through != nil {
		j.proxied.Store(true)
	}
	return through, err
}

// dial connects to an address, or returns an error if it is forbidden.
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
