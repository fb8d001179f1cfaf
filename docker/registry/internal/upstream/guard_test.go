// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestZones(t *testing.T) {
	for address, want := range map[string]zone{
		"169.254.169.254": metadata, "::ffff:169.254.169.254": metadata, "fd00:ec2::254": metadata, "169.254.1.1": linkLocal,
		"fe80::1%eth0": linkLocal, "127.0.0.1": loopback, "127.9.9.9": loopback, "::1": loopback, "::ffff:127.0.0.1": loopback,
		"0.0.0.0": loopback, "::": loopback, "224.0.0.1": multicast, "ff02::1": multicast,
		"10.0.0.1": 0, "192.168.1.1": 0, "172.16.0.1": 0, "fd00::1": 0, "8.8.8.8": 0,
	} {
		if got := zoneOf(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %d, want %d", address, got, want)
		}
	}
}

// named returns a dial function that resolves one name to this machine without the guard's knowledge.
func named(g *guard, name string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if port, ok := strings.CutPrefix(address, name+":"); ok {
			return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+port)
		}
		return g.dial(ctx, network, address)
	}
}

// guarded returns an upstream that counts as a public one, and another registry on this machine.
func guarded(t *testing.T) (s *setup, elsewhere *registry) {
	t.Helper()
	s, elsewhere = start(t, patient, nil), newRegistry(t)
	s.guard.host, s.root.Host = "registry.test", strings.Replace(s.root.Host, "127.0.0.1", "registry.test", 1)
	s.guard.zones.Store(0)
	s.transport.Proxy = nil
	s.transport.DialContext = named(s.guard, "registry.test")
	return s, elsewhere
}

// TestRedirectToThisMachine checks that redirects to this machine are refused, by address and by name, for blobs and
// manifests.
func TestRedirectToThisMachine(t *testing.T) {
	s, elsewhere := guarded(t)
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]"} {
		d, content := s.g.blob(1000)
		elsewhere.put(d.String(), item{"application/octet-stream", d, content})
		to, _ := url.Parse(elsewhere.URL)
		to.Host = host + ":" + to.Port()
		s.g.misbehave(on("", "/v2/some/", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, to.String()+"/elsewhere/"+d.String(), http.StatusFound)
		}))
		isError(t, host, s.fetch(t, s.Upstream, d, -1).err, 502, "UPSTREAM_INVALID")
		isError(t, host, s.ask(t, tag("v1")), 502, "UPSTREAM_INVALID")
		if n := elsewhere.count("GET " + d.String()); n != 0 {
			t.Errorf("%s: %d requests", host, n)
		}
	}
	// An upstream on this machine may redirect to this machine, but not to a metadata service.
	s.guard.zones.Store(uint32(loopback))
	d, content := s.g.blob(1000)
	elsewhere.put(d.String(), item{"application/octet-stream", d, content})
	s.g.misbehave(on("", "/v2/some/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+"/elsewhere/"+d.String(), http.StatusFound)
	}))
	s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, -1), d, content)
	for _, host := range []string{"169.254.169.254", "[fd00:ec2::254]", "169.254.1.1", "224.0.0.1"} {
		s.g.misbehave(on("", "/v2/some/", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+host+"/computeMetadata/v1/", http.StatusFound)
		}))
		isError(t, host, s.ask(t, tag("v1")), 502, "UPSTREAM_INVALID")
	}
}

// TestTokenFromThisMachine checks that tokens are not requested from this machine, even if the server's name, which
// oras-go resolves first, resolves to another address later.
func TestTokenFromThisMachine(t *testing.T) {
	s, elsewhere := guarded(t)
	elsewhere.set(func() { elsewhere.public, elsewhere.secret = true, "" })
	req, err := http.NewRequestWithContext(context.WithValue(ctx, tokenFetchKey{}, &tokenFetch{}), http.MethodGet,
		strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1)+"/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := s.plain.Do(req); err == nil {
		_ = resp.Body.Close()
		t.Errorf("status %d", resp.StatusCode)
	} else if !asRequestError(err).invalid {
		t.Error(err)
	}
	if n := elsewhere.count("GET token"); n != 0 {
		t.Errorf("%d requests for a token", n)
	}
}

// TestZonesOfTheUpstream checks that the upstream's zones are set when its name is resolved.
func TestZonesOfTheUpstream(t *testing.T) {
	g := newGuard(&url.URL{Host: "localhost:1"})
	if g.forbids(loopback) != true {
		t.Error("known before")
	}
	own, refused := g.check(ctx, &url.URL{Host: "LOCALHOST:1"})
	if refused != nil {
		t.Fatal(refused)
	}
	if c, err := g.dial(own, "tcp", "localhost:1"); err == nil {
		_ = c.Close()
	}
	if g.forbids(loopback) || !g.forbids(linkLocal) || !g.forbids(metadata) {
		t.Errorf("zones %b", g.zones.Load())
	}
	if g := newGuard(&url.URL{Host: "[::1]:5000"}); g.forbids(loopback) {
		t.Error("a literal address is known at once")
	}
}
