// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestPeers checks that requests are passed on, except those that no replica sends, and that connections do not count
// as authenticated by themselves.
func TestPeers(t *testing.T) {
	limits := Limits{HeaderBytes: 32 << 10, HeaderTimeout: patience, IdleTimeout: time.Minute, SendTimeout: patience, UnauthenticatedConnections: 1}
	s := NewPeers(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Good") != "" {
			Authenticated(r.Context())
		}
		_, _ = io.WriteString(w, "handled "+r.URL.Path)
	}), limits, 0, slog.New(slog.DiscardHandler), nil)
	l := testutil.Listen(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, l) }()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	ask := func(method, path, good string) (int, string) {
		req, err := http.NewRequest(method, "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Good", good)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	for _, path := range []string{"/alive", "/ready", "/metrics", "/v2/"} {
		if status, body := ask(http.MethodGet, path, ""); status != 200 || body != "handled "+path {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if _, unknown := s.conns.count(); unknown != 1 {
		t.Errorf("%d connections count to the limit", unknown)
	}
	ask(http.MethodGet, "/", "yes")
	if _, unknown := s.conns.count(); unknown != 0 {
		t.Errorf("%d connections count to the limit after a good request", unknown)
	}
	if status, _ := ask(http.MethodPost, "/", ""); status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", status)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
