// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

const testSecret = "0123456789abcdef0123456789abcdef"

// patience is how long a test waits for an expected event.
const patience = 10 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv("PEER_TEST_NAME") != "" {
		serveProcess()
		return
	}
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.DiscardHandler)

// secretFile returns a file with a secret.
func secretFile(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newPeers returns the Peers of replica self, with the given others.
func newPeers(t testing.TB, self string, others ...Member) *Peers {
	t.Helper()
	if others == nil {
		others = []Member{}
	}
	p, err := New(Options{Self: self, Members: others, Secret: secretFile(t, testSecret), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// serve serves a handler on a loopback port until the test ends, and returns its address.
func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	l := testutil.Listen(t)
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

// pair returns replica "a", which knows replica "b" that serves a handler, and "b".
func pair(t testing.TB, h http.Handler) (a, b *Peers) {
	t.Helper()
	b = newPeers(t, "b")
	a = newPeers(t, "a", Member{"b", serve(t, b.Handler(h))})
	return a, b
}

// get requests a URI from a member, and returns the response and its body.
func get(t testing.TB, p *Peers, name, uri string) (*http.Response, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := p.Do(ctx, name, http.MethodGet, uri, nil, CallOptions{})
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	return resp, string(content), err
}

// resultOf returns the Result in an error.
func resultOf(err error) Result {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return Result("no peer.Error")
	}
	return e.Result
}
