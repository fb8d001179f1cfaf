// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// held returns a handler that sends half of its body, closes begun, and sends the rest after release is closed.
func held() (handler http.Handler, begun chan struct{}, release chan struct{}) {
	begun, release = make(chan struct{}, 10), make(chan struct{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "first")
		_ = http.NewResponseController(w).Flush()
		begun <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "later")
	}), begun, release
}

func TestDrainLetsTransfersEnd(t *testing.T) {
	handler, begun, release := held()
	r := start(t, func(o *Options) { o.Handler, o.Drain = handler, patience })
	transfer := r.dial()
	send(t, transfer, get)
	<-begun
	idle := r.dial()
	idleReader := bufio.NewReader(idle)
	send(t, idle, request("GET", "/ready"))
	if response, _ := answer(t, idleReader, "GET"); response.StatusCode != 200 || response.Close {
		t.Fatalf("got %d, %v", response.StatusCode, response.Close)
	}
	if !r.Ready() {
		t.Error("not ready before the drain")
	}
	r.stop()
	testutil.Eventually(t, "new connections are refused", func() bool {
		c, err := net.Dial("tcp", r.address)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	// A client with an open connection gets "Connection: close".
	send(t, idle, request("GET", "/ready"))
	if response, _ := answer(t, idleReader, "GET"); response.StatusCode != 503 || !response.Close {
		t.Errorf("got %d, %v", response.StatusCode, response.Header)
	}
	if r.Ready() {
		t.Error("ready while it drains")
	}
	select {
	case err := <-r.done:
		t.Fatalf("ended before the transfer: %v", err)
	default:
	}
	close(release)
	if _, body := answer(t, bufio.NewReader(transfer), "GET"); body != "firstlater" {
		t.Errorf("got %q", body)
	}
	if err := r.ended(); err != nil {
		t.Error(err)
	}
}

func TestDrainCutsRemainingTransfers(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS ", secure), func(t *testing.T) {
			gone := make(chan error, 1)
			r := start(t, func(o *Options) {
				o.Handler, o.Drain = endless(gone), 100*time.Millisecond
				if secure {
					o.Certificate = certificate(t)
				}
			})
			c := r.dial()
			if secure {
				c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			}
			send(t, c, get)
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			// The client receives nothing more, so that the handler blocks in a write.
			begin := time.Now()
			r.stop()
			if err := r.ended(); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took > 4*time.Second {
				t.Errorf("took %v", took)
			}
			if err := <-gone; err == nil {
				t.Error("the handler was not cut")
			}
			if !strings.Contains(r.log.String(), "connections=1") {
				t.Errorf("log: %s", r.log)
			}
		})
	}
}

func TestIdleServerEndsAtOnce(t *testing.T) {
	r := start(t, func(o *Options) { o.Drain = time.Hour })
	r.ask("GET", "/alive")
	testutil.Eventually(t, "the connection ends", func() bool { open, _ := r.conns.count(); return open == 0 })
	begin := time.Now()
	r.stop()
	if err := r.ended(); err != nil || time.Since(begin) > closeNotice/2 {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}

func TestHandlerThatDoesNotReturnIsReported(t *testing.T) {
	stuck := make(chan struct{})
	begun := make(chan struct{})
	r := start(t, func(o *Options) {
		o.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { close(begun); <-stuck; w.WriteHeader(200) })
	})
	send(t, r.dial(), get)
	<-begun
	r.handlerGrace = 50 * time.Millisecond
	r.stop()
	if err := r.ended(); err == nil || !strings.Contains(err.Error(), "1 request") {
		t.Errorf("got %v", err)
	}
	close(stuck)
	testutil.Eventually(t, "the handler ends", func() bool { open, _ := r.conns.count(); return open == 0 })
}

func TestListenerFails(t *testing.T) {
	s, err := New(Options{Handler: hello, Checker: allowAll{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l := testutil.Listen(t)
	l.Close()
	if err := s.Run(context.Background(), l); err == nil {
		t.Error("no error")
	}
}

func TestMetricsAreReadWithoutCredential(t *testing.T) {
	r := &running{t: t, events: &events{}, log: &testutil.LogBuffer{}, done: make(chan error, 1)}
	limits := Limits{HeaderBytes: 16 << 10, HeaderTimeout: patience, IdleTimeout: patience, SendTimeout: patience}
	r.run(NewMetrics(hello, func() bool { return false }, limits, slog.New(slog.NewTextHandler(r.log, nil)), r.events.observe))
	for path, want := range map[string]int{"/metrics": 200, "/alive": 200, "/ready": 503, "/v2/": 404, "/debug/pprof/": 404} {
		if response, _ := r.ask("GET", path); response.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, response.StatusCode, want)
		}
	}
	if response, _ := r.ask("POST", "/metrics", "Content-Length: 5"); response.StatusCode != 405 {
		t.Errorf("got %d", response.StatusCode)
	}
}

func TestProfilerIsOnLoopbackOnly(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	r := &running{t: t, events: &events{}, log: &testutil.LogBuffer{}, done: make(chan error, 1)}
	limits := Limits{HeaderBytes: 16 << 10, HeaderTimeout: patience, IdleTimeout: patience, SendTimeout: patience}
	r.run(NewProfiler(limits, log, nil))
	if response, body := r.ask("GET", "/debug/pprof/goroutine?debug=1"); response.StatusCode != 200 || !strings.Contains(body, "goroutine") {
		t.Errorf("got %d", response.StatusCode)
	}
	everywhere, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	if err := NewProfiler(limits, log, nil).Run(t.Context(), everywhere); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("got %v", err)
	}
	if _, err := everywhere.Accept(); err == nil {
		t.Error("the listener is still open")
	}
}

func TestRemote(t *testing.T) {
	var r *running
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, Remote(r.Context())) })
	r = start(t, func(o *Options) { o.Handler = handler })
	c := r.dial()
	send(t, c, get)
	if _, body := answer(t, bufio.NewReader(c), "GET"); body != c.LocalAddr().String() {
		t.Errorf("got %s, want %s", body, c.LocalAddr())
	}
	if Remote(t.Context()) != nil {
		t.Error("an address from nowhere")
	}
	Authenticated(t.Context()) // has no effect without a connection
}

// certificate returns a Certificate for tests.
func certificate(t *testing.T) *Certificate {
	t.Helper()
	crt, key, _ := pair(t, t.TempDir(), 1)
	c, err := LoadCertificate(crt, key, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTLS(t *testing.T) {
	crt, key, root := pair(t, t.TempDir(), 1)
	r := start(t, func(o *Options) {
		var err error
		if o.Certificate, err = LoadCertificate(crt, key, o.Log, o.Observe); err != nil {
			t.Fatal(err)
		}
		o.Handler = file(t, 1<<20)
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	for authorization, want := range map[string]int{"Basic good": 200, "Basic bad": 401} {
		request, _ := http.NewRequest("GET", "https://"+r.address+"/v2/x", nil)
		request.Header.Set("Authorization", authorization)
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode != want || err != nil || want == 200 && n != 1<<20 || response.ProtoMajor != 1 || response.TLS == nil {
			t.Errorf("got %s %d, %d bytes, %v", response.Proto, response.StatusCode, n, err)
		}
	}
	t.Run("plain HTTP", func(t *testing.T) {
		if response, body := r.ask("GET", "/v2/"); response.StatusCode != 400 || !strings.Contains(body, "TLS") {
			t.Errorf("got %d, %q", response.StatusCode, body)
		}
	})
	t.Run("no TLS", func(t *testing.T) {
		c := r.dial()
		send(t, c, "\x00\x00\x00\x00\x00\x00\x00\x00")
		closes(t, c)
	})
	t.Run("many header lines", func(t *testing.T) {
		c := tls.Client(r.dial(), &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
		send(t, c, "GET /v2/ HTTP/1.1\r\n"+strings.Repeat("X: y\r\n", headerLines+1))
		if response, _ := answer(t, bufio.NewReader(c), "GET"); response.StatusCode != 431 {
			t.Errorf("got %d", response.StatusCode)
		}
	})
}

func TestSlowHandshakeIsCut(t *testing.T) {
	r := start(t, func(o *Options) {
		o.Certificate = certificate(t)
		o.Limits.HeaderTimeout = 100 * time.Millisecond
	})
	c := r.dial()
	send(t, c, "\x16\x03\x01")
	closes(t, c)
}

// TestTransferOutlivesHandshakeTimeout checks that the deadline of the handshake does not affect later transfers.
func TestTransferOutlivesHandshakeTimeout(t *testing.T) {
	handler, begun, release := held()
	r := start(t, func(o *Options) {
		o.Certificate, o.Handler = certificate(t), handler
		o.Limits.HeaderTimeout = 600 * time.Millisecond
	})
	c := tls.Client(r.dial(), &tls.Config{InsecureSkipVerify: true})
	send(t, c, get)
	<-begun
	time.Sleep(700 * time.Millisecond) // the time limit itself is under test
	close(release)
	if _, body := answer(t, bufio.NewReader(c), "GET"); body != "firstlater" {
		t.Errorf("got %q", body)
	}
}
