// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

func TestKernelState(t *testing.T) {
	conn, other := testutil.Connect(t)
	s := socketOf(conn)
	if s.hasUnread() || !s.isConnected() {
		t.Error("something arrived, or it is not connected")
	}
	if _, err := other.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "a byte arrived", s.hasUnread)
	if _, err := conn.Read(make([]byte, 8)); err != nil || s.hasUnread() {
		t.Error("it is still there after it was read", err)
	}
	_ = other.Close()
	testutil.Eventually(t, "the end arrived", s.hasUnread)
	_ = conn.Close()
	if s.hasUnread() || s.isConnected() {
		t.Error("something comes after the end")
	}
	if piped, _ := net.Pipe(); socketOf(piped) != nil || (*socket)(nil).hasUnread() {
		t.Error("a pipe has a socket")
	}
}

// TestUnansweredConnect checks a connect without any answer.
func TestUnansweredConnect(t *testing.T) {
	begun := 0
	all := sockets{begin: func() func() {
		begun++
		return func() { begun-- }
	}}
	if !all.isEmpty() {
		t.Error("not none")
	}
	d := net.Dialer{Control: all.add}
	ctx, cancel := context.WithCancel(t.Context())
	address := fullListener(t)
	done := make(chan error)
	go func() {
		_, err := d.DialContext(ctx, "tcp", address)
		done <- err
	}()
	testutil.Eventually(t, "it has a socket", func() bool { return !all.isEmpty() })
	time.Sleep(step)
	if all.isConnected() {
		t.Error("it is connected")
	}
	cancel()
	if err := <-done; err == nil || begun != 1 {
		t.Error("it was connected, or not started", begun)
	}
	if all.end(); begun != 0 {
		t.Error("not stopped")
	}
}

// TestUnreadAnswers checks that answers count if they have arrived, but this process has not read them.
func TestUnreadAnswers(t *testing.T) {
	conn, other := testutil.Connect(t)
	if _, err := other.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	p := newPeers(t, "a", Member{"b", "127.0.0.1:1"})
	unread := roundTripper(func(r *http.Request) (*http.Response, error) {
		trace := httptrace.ContextClientTrace(r.Context())
		trace.GotConn(httptrace.GotConnInfo{Conn: conn})
		trace.WroteRequest(httptrace.WroteRequestInfo{})
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	p.hops, p.fresh = unread, unread
	ctx, cancel := context.WithTimeout(t.Context(), suspectAfter*3/2)
	defer cancel()
	_, err := p.Do(ctx, "b", http.MethodGet, smallURI, nil, CallOptions{Silent: func() { t.Error("the hop is called silent") }})
	if m := p.find("b"); !errors.Is(err, context.DeadlineExceeded) || m.state() != In {
		t.Errorf("%v, and it is %v", err, m.state())
	}
	m := p.find("b")
	m.markSuspect(suspectAfter, "test")
	time.Sleep(outAfter)
	if m.state() != Suspect {
		t.Errorf("it is %v, though its probes were answered", m.state())
	}
	if _, err := conn.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "it is out", func() bool { return m.state() == Out })
}
