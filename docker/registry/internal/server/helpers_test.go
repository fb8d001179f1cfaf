// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for an expected event.
const patience = 10 * time.Second

// words is a Checker with a fixed Decision for each Authorization header.
type words map[string]Decision

func (w words) Check(_ context.Context, authorization string) Decision { return w[authorization] }

// hello answers every request.
var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, "hello")
})

// events counts events.
type events struct {
	mu   sync.Mutex
	seen map[Event]int
}

func (e *events) observe(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.seen == nil {
		e.seen = map[Event]int{}
	}
	e.seen[event]++
}

func (e *events) of(event Event) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen[event]
}

// running is a server under test.
type running struct {
	*Server
	t       *testing.T
	address string
	events  *events
	log     *testutil.LogBuffer
	stop    context.CancelFunc
	done    chan error
}

// start runs a client server on a free port until the test ends. change modifies the options.
func start(t *testing.T, change func(*Options)) *running {
	t.Helper()
	r := &running{t: t, events: &events{}, log: &testutil.LogBuffer{}, done: make(chan error, 1)}
	o := Options{
		Handler: hello,
		Checker: words{"Basic good": {Verdict: Good}, "": {Verdict: Bad}, "Basic bad": {Verdict: Bad}},
		Limits: Limits{
			HeaderBytes: 16 << 10, HeaderTimeout: patience, IdleTimeout: patience, SendTimeout: patience,
			UnauthenticatedConnections: 16,
		},
		Log: slog.New(slog.NewTextHandler(r.log, nil)), Observe: r.events.observe,
	}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.run(s)
	return r
}

func (r *running) run(s *Server) {
	r.t.Helper()
	l := testutil.Listen(r.t)
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	r.Server, r.address = s, l.Addr().String()
	go func() { r.done <- s.Run(ctx, l) }()
	r.t.Cleanup(func() {
		r.stop()
		if r.done != nil {
			if err := r.ended(); err != nil {
				r.t.Error(err)
			}
		}
	})
}

// ended waits for the end of Run.
func (r *running) ended() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		r.done = nil
		return err
	case <-time.After(patience):
		r.done = nil
		r.t.Error("the server does not end")
		return nil
	}
}

// dial opens a connection with a deadline.
func (r *running) dial() net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// send writes to a connection.
func send(t *testing.T, c io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// answer reads one response and its body.
func answer(t *testing.T, from *bufio.Reader, method string) (*http.Response, string) {
	t.Helper()
	response, err := http.ReadResponse(from, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// ask sends a request on a new connection. headers are lines without line breaks.
func (r *running) ask(method, path string, headers ...string) (*http.Response, string) {
	r.t.Helper()
	c := r.dial()
	defer c.Close()
	send(r.t, c, request(method, path, headers...))
	return answer(r.t, bufio.NewReader(c), method)
}

func request(method, path string, headers ...string) string {
	lines := append([]string{method + " " + path + " HTTP/1.1", "Host: cache"}, headers...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// get is a request with a valid credential.
var get = request("GET", "/v2/", "Authorization: Basic good")

// closes fails the test unless the server closes the connection.
func closes(t *testing.T, c io.Reader) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the connection is not closed: %v", err)
	}
}

// pair writes a certificate for 127.0.0.1 with the given serial number, and its key.
func pair(t *testing.T, dir string, serial int64) (certificate, key string, root []byte) {
	t.Helper()
	root, private := testutil.Certificate(t, serial)
	certificate, key = filepath.Join(dir, fmt.Sprintf("%d.crt", serial)), filepath.Join(dir, fmt.Sprintf("%d.key", serial))
	write(t, certificate, root)
	write(t, key, private)
	return certificate, key, root
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
