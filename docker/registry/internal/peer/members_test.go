// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestMembersOfRecords(t *testing.T) {
	got := membersOf([]*net.SRV{
		{Target: "registry-cache-1.peers.ns.svc.cluster.local.", Port: 5005},
		{Target: "Registry-Cache-0.peers.ns.svc.cluster.local.", Port: 5005},
		{Target: "registry-cache-1.peers.ns.svc.cluster.local.", Port: 5004},
		{Target: "no name.", Port: 5005}, {Target: ".", Port: 5005}, {Target: "registry-cache-2.", Port: 0},
	})
	want := []Member{
		{"registry-cache-0", "Registry-Cache-0.peers.ns.svc.cluster.local.:5005"},
		{"registry-cache-1", "registry-cache-1.peers.ns.svc.cluster.local.:5004"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestTooManyMembers(t *testing.T) {
	var records []*net.SRV
	for i := range membersLimit + 100 {
		records = append(records, &net.SRV{Target: fmt.Sprintf("m-%04d.x.", i), Port: 1})
	}
	p := newPeers(t, "z")
	p.updateMembers(membersOf(records), nil)
	if n := p.Stats().Members; n != membersLimit+1 {
		t.Errorf("%d members", n)
	}
	for i := range records {
		records[i].Target = "n" + records[i].Target
	}
	p.updateMembers(membersOf(records), nil)
	if n := p.Stats().Members; n > membersLimit+1 {
		t.Errorf("%d members after all were renamed", n)
	}
}

// lookingPeers returns Peers of a Service whose lookups the test answers.
func lookingPeers(t *testing.T, lookUp func(context.Context) ([]Member, error)) *Peers {
	t.Helper()
	p := newPeers(t, "a")
	p.lookUp = lookUp
	p.lookedUp = make(chan struct{})
	p.spawn(p.refresh)
	return p
}

func TestMembersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type answer struct {
			found []Member
			err   error
		}
		var next atomic.Pointer[answer]
		next.Store(&answer{})
		var lookups atomic.Int64
		p := lookingPeers(t, func(context.Context) ([]Member, error) {
			lookups.Add(1)
			a := next.Load()
			return a.found, a.err
		})
		defer p.Close()
		// check waits for one lookup.
		check := func(found []Member, err error, want ...string) {
			t.Helper()
			next.Store(&answer{found, err})
			for before := lookups.Load(); lookups.Load() == before; {
				time.Sleep(step)
			}
			synctest.Wait()
			got := names(p.Rank(""))
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%v, not %v", got, want)
			}
		}
		b, c := Member{"b", "b:1"}, Member{"c", "c:1"}
		<-p.LookedUp()
		check(nil, nil, "a")
		check([]Member{{"a", "a:1"}, b, c}, nil, "a", "b", "c")
		check(nil, errors.New("out"), "a", "b", "c")
		check(nil, errors.New("out"), "a", "b", "c")
		check([]Member{b}, nil, "a", "b", "c")
		check(nil, errors.New("out"), "a", "b", "c")
		check([]Member{b}, nil, "a", "b")
		check([]Member{c}, nil, "a", "b", "c")
		check([]Member{b}, nil, "a", "b", "c") // a and c are missing once
		before := p.find("b")
		check([]Member{{"b", "b:2"}}, nil, "a", "b")
		if p.find("b") != before || *before.target.Load() != "b:2" {
			t.Error("another port makes another member")
		}
		if n := p.Stats().LookupFailures; n != 3 {
			t.Errorf("%d failures are counted", n)
		}
		begun, first := time.Now(), lookups.Load()
		time.Sleep(10 * time.Minute)
		if each := time.Since(begun) / time.Duration(lookups.Load()-first); each < 4*time.Second || each > 6*time.Second {
			t.Errorf("a lookup each %v", each)
		}
	})
}

// dnsServer answers SRV and A queries with the records that the test sets, over UDP, or TCP if they are too long.
type dnsServer struct {
	records atomic.Pointer[map[string]string] // name → SRV records ("port target", one per line) or addresses
	silent  atomic.Bool
	queries atomic.Int64
	address string
}

func newDNS(t testing.TB) *dnsServer {
	t.Helper()
	var conn net.PacketConn
	stream, err := net.Listen("tcp", "127.0.0.1:0")
	for range 20 { // until a port is free for UDP and TCP
		if err != nil {
			break
		}
		if conn, err = net.ListenPacket("udp", stream.Addr().String()); err == nil {
			break
		}
		_ = stream.Close()
		stream, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil || conn == nil {
		t.Fatal(err)
	}
	s := &dnsServer{address: conn.LocalAddr().String()}
	s.records.Store(&map[string]string{})
	t.Cleanup(func() { _, _ = conn.Close(), stream.Close() })
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			answer := s.answer(buffer[:n])
			if len(answer) > 1200 {
				answer = append(buffer[:2:2], 0x82, 0, 0, 1, 0, 0, 0, 0, 0, 0) // truncated
				answer = append(answer, buffer[12:n-11]...)                    // without EDNS
			}
			if answer != nil && !s.silent.Load() {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	go func() {
		for {
			c, err := stream.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			var length [2]byte
			_, _ = io.ReadFull(c, length[:])
			query := make([]byte, binary.BigEndian.Uint16(length[:]))
			_, _ = io.ReadFull(c, query)
			answer := s.answer(query)
			_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
			_ = c.Close()
		}
	}()
	return s
}

func (s *dnsServer) answer(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	s.queries.Add(1)
	q := m.Questions[0]
	m = dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true}, Questions: m.Questions}
	found, ok := (*s.records.Load())[strings.ToLower(q.Name.String())]
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
	}
	header := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
	switch q.Type {
	case dnsmessage.TypeSRV:
		for line := range strings.Lines(found) {
			r := &dnsmessage.SRVResource{}
			var target string
			_, _ = fmt.Sscan(line, &r.Port, &target)
			r.Target = dnsmessage.MustNewName(target)
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: r})
		}
	case dnsmessage.TypeA, dnsmessage.TypeAAAA:
		for _, field := range strings.Fields(found) {
			switch ip := net.ParseIP(field); {
			case ip == nil || (ip.To4() != nil) != (q.Type == dnsmessage.TypeA):
			case ip.To4() != nil:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: [4]byte(ip.To4())}})
			default:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: [16]byte(ip)}})
			}
		}
	}
	packed, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return packed
}

func resolver(address string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
}

// resolver returns a resolver that uses the server until the test ends.
func (s *dnsServer) resolver(t *testing.T) *net.Resolver {
	r := resolver(s.address)
	dial := r.Dial
	r.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() }) // a lookup would wait for a silent server longer than its context
		}
		return conn, err
	}
	return r
}

const (
	testService = "peers.ns.svc.cluster.local."
	testSRV     = "_peers._tcp." + testService
)

// TestService checks lookups of members and addresses, and that the last ones are used while DNS is silent.
func TestService(t *testing.T) {
	dns := newDNS(t)
	b := newPeers(t, "b")
	_, port, _ := net.SplitHostPort(serve(t, b.Handler(small)))
	dns.records.Store(&map[string]string{testSRV: port + " a." + testService + "\n" + port + " b." + testService, "b." + testService: "127.0.0.1"})
	a, err := New(Options{Self: "a", Service: testService, Secret: secretFile(t, testSecret), Log: slog.New(slog.DiscardHandler), DNS: dns.resolver(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	<-a.LookedUp()
	if s := a.Stats(); s.Members != 2 {
		t.Fatalf("%+v", s)
	}
	if _, text, err := get(t, a, "b", smallURI); err != nil || text != smallBody {
		t.Fatalf("%q %v", text, err)
	}
	dns.silent.Store(true)
	a.closeIdle()
	if _, text, err := get(t, a, "b", smallURI); err != nil || text != smallBody {
		t.Fatalf("with a silent DNS: %q %v", text, err)
	}
	// Without a known address, it takes longer to give up, and the member is not blamed.
	other := newPeers(t, "c", Member{"b", "b." + testService + ":" + port})
	other.resolver = dns.resolver(t)
	if _, _, err := get(t, other, "b", smallURI); !errors.Is(err, errLookupLimit) || other.Stats().Out != 0 {
		t.Errorf("with a silent DNS from the start: %v", err)
	}
	dns.silent.Store(false)
	dns.records.Store(&map[string]string{})
	a.closeIdle()
	if _, _, err := get(t, a, "b", smallURI); resultOf(err) != Unreachable || a.Stats().Out != 1 {
		t.Fatalf("a pod that no longer exists: %v", err)
	}
}

// TestDualStack uses a member with two addresses, one of which refuses or drops packets.
func TestDualStack(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6:", err)
	}
	b := newPeers(t, "b")
	s := &http.Server{Handler: b.Handler(small)}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	dns := newDNS(t)
	dns.records.Store(&map[string]string{"b.": "127.0.0.1 ::1", "c.": "::1 198.18.0.1", "d.": "198.18.0.1"})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for name, want := range map[string]bool{"b": true, "c": true, "d": false} {
		a := newPeers(t, "a", Member{"b", name + ".:" + port})
		a.resolver = dns.resolver(t)
		begun := time.Now()
		_, _, err := get(t, a, "b", smallURI)
		if (err == nil) != want || a.Stats().Out != map[bool]int{true: 0, false: 1}[want] {
			t.Errorf("%s.: %v after %v", name, err, time.Since(begun))
		}
	}
}
