// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// roundTripper is a transport without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// deaf accepts a request and does not answer.
func deaf(r *http.Request) (*http.Response, error) {
	gotConn(r.Context())
	httptrace.ContextClientTrace(r.Context()).WroteRequest(httptrace.WroteRequestInfo{})
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// gotConn reports a connection, like net/http's transport.
func gotConn(ctx context.Context) { httptrace.ContextClientTrace(ctx).GotConn(httptrace.GotConnInfo{}) }

// answering returns a transport that answers like replica b.
func answering(b *Peers) roundTripper {
	return func(r *http.Request) (*http.Response, error) {
		w := &recorder{header: http.Header{}}
		in := r.Clone(r.Context())
		in.RequestURI = r.URL.RequestURI()
		b.Handler(small).ServeHTTP(w, in)
		return &http.Response{StatusCode: w.status, Header: w.header, Body: http.NoBody}, nil
	}
}

type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }

func TestIdlePeersSendNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers(t, "a", Member{"b", "b:1"}, Member{"c", "c:1"})
		defer p.Close()
		time.Sleep(time.Hour)
		if s := p.Stats(); s.Probes != 0 || s.Members != 3 {
			t.Errorf("%+v", s)
		}
	})
}

// TestSilentMember checks that a silent member is suspect after one second and out after two, and then probed less and
// less often until it answers.
func TestSilentMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newPeers(t, "b")
		defer b.Close()
		p := newPeers(t, "a", Member{"b", "b:1"})
		defer p.Close()
		var mu sync.Mutex
		var seen []time.Duration
		probed := func() []time.Duration {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(seen)
		}
		begun := time.Now()
		var alive atomic.Bool
		p.fresh = roundTripper(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			seen = append(seen, time.Since(begun))
			mu.Unlock()
			if alive.Load() {
				return answering(b)(r)
			}
			return deaf(r)
		})
		m := p.find("b")
		m.markSuspect(suspectAfter, "test")
		m.markSuspect(suspectAfter, "again")
		for _, c := range []struct {
			wait time.Duration
			want State
		}{{0, Suspect}, {outAfter - suspectAfter - time.Millisecond, Suspect}, {2 * time.Millisecond, Out}} {
			time.Sleep(c.wait)
			synctest.Wait()
			if m.state() != c.want {
				t.Errorf("%v after %v", m.state(), time.Since(begun))
			}
		}
		probes := probed()
		if len(probes) != 2 || probes[0] != 0 || probes[1] != probeEvery {
			t.Errorf("a suspect one is probed at %v", probes)
		}
		time.Sleep(30 * time.Second)
		probes = probed()
		for i := 3; i < len(probes); i++ {
			// A probe takes up to 1.5 s, and the maximum delay is 2 s.
			if gap := probes[i] - probes[i-1]; gap < 1900*time.Millisecond || gap > probeAtMost+connectLimit+suspectAfter {
				t.Errorf("%v between two probes", gap)
			}
		}
		if n := len(probes); n < 9 || n > 16 {
			t.Errorf("probed %d times", n)
		}
		m.noteBytes()
		if m.state() != Out {
			t.Error("the rest of a transfer marked it as in")
		}
		alive.Store(true)
		time.Sleep(probeAtMost + connectLimit + suspectAfter)
		synctest.Wait()
		if m.state() != In {
			t.Error("it answers, and is not in")
		}
		n := len(probed())
		time.Sleep(time.Minute)
		if len(probed()) != n {
			t.Error("one that is in is probed")
		}
	})
}

// TestAnySignOfLife checks that any verified bytes end the suspicion.
func TestAnySignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers(t, "a", Member{"b", "b:1"})
		defer p.Close()
		p.fresh = roundTripper(deaf)
		m := p.find("b")
		for range 5 {
			m.markSuspect(suspectAfter, "test")
			time.Sleep(outAfter - suspectAfter - step)
			m.noteBytes()
			if m.state() != In {
				t.Fatal(m.state())
			}
		}
		// An earlier suspicion does not affect a later one.
		m.markSuspect(0, "test")
		time.Sleep(outAfter - step)
		synctest.Wait()
		if m.state() != Suspect {
			t.Error(m.state())
		}
		m.noteProof()
		time.Sleep(time.Minute)
		if m.state() != In {
			t.Error(m.state())
		}
	})
}

// TestSilentHop checks that a hop ends when its member is out, and not before.
func TestSilentHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers(t, "a", Member{"b", "b:1"})
		defer p.Close()
		p.fresh = roundTripper(deaf)
		p.hops = roundTripper(func(r *http.Request) (*http.Response, error) {
			return deaf(r)
		})
		begun := time.Now()
		var told []time.Duration
		_, err := p.Do(t.Context(), "b", http.MethodGet, smallURI, nil, CallOptions{Silent: func() { told = append(told, time.Since(begun)) }})
		if took := time.Since(begun); resultOf(err) != Silent || took < outAfter || took > outAfter+3*step {
			t.Errorf("%v after %v", err, took)
		}
		if len(told) != 1 || told[0] < suspectAfter || told[0] > suspectAfter+2*step {
			t.Errorf("Silent was called at %v", told)
		}
		begun = time.Now()
		if _, err := p.Do(t.Context(), "b", http.MethodGet, smallURI, nil, CallOptions{}); resultOf(err) != Unreachable || time.Since(begun) > 0 {
			t.Errorf("one that is out is asked: %v", err)
		}
	})
}

// TestHopWhileItsMemberGoesOut checks that a hop that started shortly before its member went out ends at once.
func TestHopWhileItsMemberGoesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers(t, "a", Member{"b", "b:1"})
		defer p.Close()
		p.hops, p.fresh = roundTripper(deaf), roundTripper(deaf)
		p.find("b").markSuspect(suspectAfter, "test")
		time.Sleep(outAfter - suspectAfter - 2*step)
		begun := time.Now()
		_, err := p.Do(t.Context(), "b", http.MethodGet, smallURI, nil, CallOptions{})
		if e, ok := errors.AsType[*Error](err); !ok || e.Result != Silent || time.Since(begun) > 5*step {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

// TestSlowHop checks that a hop continues as long as the member answers its probes.
func TestSlowHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newPeers(t, "b")
		defer b.Close()
		p := newPeers(t, "a", Member{"b", "b:1"})
		defer p.Close()
		p.fresh = answering(b)
		p.hops = roundTripper(func(r *http.Request) (*http.Response, error) {
			gotConn(r.Context())
			select {
			case <-r.Context().Done():
				return nil, r.Context().Err()
			case <-time.After(30 * time.Second):
			}
			return nil, errors.New("the end")
		})
		told := 0
		_, err := p.Do(t.Context(), "b", http.MethodGet, smallURI, nil, CallOptions{Silent: func() { told++ }})
		if s := p.Stats(); resultOf(err) != Unreachable || told != 1 || s.Probes < 25 || s.Probes > 31 || s.Out != 0 {
			t.Errorf("%v, Silent was called %d times, %+v", err, told, s)
		}
	})
}

// TestConnects checks the possible results of a connect.
func TestConnects(t *testing.T) {
	closed := testutil.Listen(t)
	_ = closed.Close()
	full := fullListener(t)
	for _, c := range []struct {
		what, address string
		least, most   time.Duration
	}{
		{"refused", closed.Addr().String(), 0, 300 * time.Millisecond},
		{"backlog full", full, connectLimit, 2 * connectLimit},
		{"no such name", "name.invalid.:1", 0, 2 * time.Second},
	} {
		p := newPeers(t, "a", Member{"b", c.address})
		p.resolver = newDNS(t).resolver(t)
		begun := time.Now()
		_, _, err := get(t, p, "b", smallURI)
		if took := time.Since(begun); resultOf(err) != Unreachable || took < c.least || took > c.most {
			t.Errorf("%s: %v after %v", c.what, err, took)
		}
		if p.Stats().Out != 1 || len(p.Rank("x")) != 1 {
			t.Errorf("%s: not out at once", c.what)
		}
	}
}

// fullListener returns the address of a listener that accepts no more connections.
func fullListener(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: bound.(*syscall.SockaddrInet4).Port}).String()
	for range 8 {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatal("the backlog does not fill")
	return ""
}

// TestOwnFault checks that a member is not blamed for resources that this process lacks.
func TestOwnFault(t *testing.T) {
	for err, want := range map[error]bool{
		&net.OpError{Op: "dial", Err: syscall.EMFILE}: true, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}: false, errConnectLimit: false,
	} {
		if isLocalError(err) != want {
			t.Error(err)
		}
	}
}

// TestUnsentProbes checks that a process that cannot send probes does not mark a member as out at once, but does so
// eventually.
func TestUnsentProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers(t, "a", Member{"b", "b:1"})
		defer p.Close()
		p.fresh = roundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		m := p.find("b")
		m.markSuspect(0, "test")
		time.Sleep(3*outAfter - step)
		synctest.Wait()
		if m.state() != Suspect {
			t.Error(m.state())
		}
		time.Sleep(2 * step)
		synctest.Wait()
		if m.state() != Out {
			t.Error(m.state())
		}
	})
}

func TestDroppedMemberIsNotProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers(t, "a", Member{"b", "b:1"})
		defer p.Close()
		p.fresh = roundTripper(deaf)
		m := p.find("b")
		m.markOut("test")
		p.updateMembers(nil, p.updateMembers(nil, nil))
		time.Sleep(time.Minute)
		m.markSuspect(0, "test")
		time.Sleep(time.Minute)
		if s := p.Stats(); s.Probes != 0 || !slices.Equal(names(p.Rank("x")), []string{"a"}) {
			t.Errorf("%+v", s)
		}
	})
}

// TestLateStep checks that late steps count little, and that the last step is not late.
func TestLateStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStepClock(0)
		for i, c := range []struct {
			wait time.Duration
			want bool
		}{{step, false}, {time.Hour, false}, {time.Hour, false}, {time.Hour, true}} {
			time.Sleep(c.wait)
			if got := s.tick(5 * step); got != c.want {
				t.Errorf("step %d: %v", i, got)
			}
		}
	})
}

func TestSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		done := make(chan time.Duration)
		asked := 0
		afterSteps(5*step, func() bool {
			if asked++; asked < 3 {
				return false
			}
			done <- time.Since(begun)
			return true
		})
		if took := <-done; took != 7*step {
			t.Error(took)
		}
		stop := afterSteps(5*step, func() bool {
			t.Error("called after stop")
			return true
		})
		time.Sleep(4 * step)
		stop()
		time.Sleep(time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		if !waitStep(ctx) {
			t.Error("pass")
		}
		cancel()
		if waitStep(ctx) {
			t.Error("pass after the end")
		}
	})
}
