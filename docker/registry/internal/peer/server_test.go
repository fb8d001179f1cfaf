// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/server"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

type everybody struct{}

func (everybody) Check(context.Context, string) server.Decision {
	return server.Decision{Verdict: server.Good}
}

// TestBehindTheServer runs a replica's handlers behind the server of package server.
func TestBehindTheServer(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	file := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	b := newPeers(t, "b")
	s, err := server.New(server.Options{
		Checker: everybody{}, Log: quiet,
		Limits: server.Limits{HeaderBytes: 32 << 10, HeaderTimeout: patience, IdleTimeout: time.Minute, SendTimeout: patience, UnauthenticatedConnections: 8},
		Handler: b.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.RawQuery {
			case "panic":
				panic("a test")
			case "nothing":
				return
			}
			http.ServeFile(w, r, file)
		})),
	})
	if err != nil {
		t.Fatal(err)
	}
	l := testutil.Listen(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, l) }()
	a := newPeers(t, "a", Member{"b", l.Addr().String()})
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		resp, err := a.Do(t.Context(), "b", method, blobURI, nil, CallOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || resp.ContentLength != int64(len(content)) || method == http.MethodGet && !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, %v", method, len(got), err)
		}
		_ = resp.Body.Close()
	}
	// A response that the server writes for a failed handler has no proof.
	for _, failure := range []string{"panic", "nothing"} {
		if _, _, err := get(t, a, "b", "/v2/a/manifests/1?"+failure); resultOf(err) != Untrusted {
			t.Errorf("%s: %v", failure, err)
		}
		testutil.Eventually(t, "it is found alive", func() bool { return a.Stats().Suspect == 0 })
	}
	if a.Stats().Out != 0 {
		t.Error("the member is out")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, _, err := get(t, a, "b", blobURI); resultOf(err) != Unreachable {
		t.Errorf("after the end: %v", err)
	}
	testutil.Eventually(t, "it is out", func() bool { return a.Stats().Out == 1 })
}
