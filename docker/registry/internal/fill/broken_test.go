// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// A pair is a replica and another one that it asks.
type pair struct {
	t  *testing.T
	by *peer.Peers
}

// newPair returns a replica that asks another one with the given handler.
func newPair(t *testing.T, h http.Handler) pair {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("s", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(self, other, address string) *peer.Peers {
		p, err := peer.New(peer.Options{
			Self: self, Members: []peer.Member{{Name: other, Address: address}}, Secret: secret, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	s := httptest.NewServer(open("b", "a", "127.0.0.1:1").Handler(h))
	t.Cleanup(s.Close)
	return pair{t, open("a", "b", s.Listener.Addr().String())}
}

// askRest requests the rest of a blob, like a relay.
func (p pair) askRest(d digest.Digest, relay string) (a answer) {
	p.t.Helper()
	uri := blob("a", d).Path() + "?ns=one.example&" + RelayParameter + "=" + relay
	resp, err := p.by.Do(p.t.Context(), "b", http.MethodGet, uri, http.Header{"Range": {"bytes=1000-"}}, peer.CallOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	a.status = resp.StatusCode
	a.body, err = io.ReadAll(resp.Body)
	a.cut = err != nil
	return a
}

// TestRestOfABrokenRelay checks that a relay is refused the rest of wrong bytes and of a fill that has failed twice.
// Other relays and clients are served.
func TestRestOfABrokenRelay(t *testing.T) {
	for name, test := range map[string]struct {
		cuts int // number of cuts until the rest is refused
		code string
		fail func(context.Context, *sink) error
	}{
		"wrong bytes": {1, CodeWrong, func(ctx context.Context, s *sink) error {
			bad := bytes.Clone(s.content)
			bad[10] ^= 1
			_, _ = s.Write(bad[:50*kib])
			_ = pause(ctx, 200*time.Millisecond) // it has readers
			_, err := s.Write(bad[50*kib:])
			return err
		}},
		"cut": {2, CodeBroken, func(ctx context.Context, s *sink) error {
			_, _ = s.Write(s.content[:50*kib])
			_ = pause(ctx, 200*time.Millisecond)
			return errors.New("cut")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, nil)
			d := c.add(testutil.RandomBytes(100 * kib))
			hops := newPair(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.ServePeer(w, r, blob("a", d)) }))
			c.script = func(ctx context.Context, _ route.Request, s *sink) error { return test.fail(ctx, s) }
			settled := func() { testutil.Eventually(t, "the fill has ended", func() bool { return c.Stats().Running == 0 }) }
			for i := range test.cuts {
				if a := hops.askRest(d, "one"); !a.cut {
					t.Fatalf("ask %d: %d, %d bytes", i, a.status, len(a.body))
				}
				settled()
			}
			c.script = nil
			fetches := c.fetches.Load()
			refused := func(when string) {
				t.Helper()
				if a := hops.askRest(d, "one"); a.status != http.StatusBadGateway || !strings.Contains(string(a.body), test.code) {
					t.Errorf("%s: %d, %d bytes, cut: %v", when, a.status, len(a.body), a.cut)
				}
			}
			refused("while nothing runs")
			if n := c.fetches.Load(); n != fetches {
				t.Error("the rest was fetched")
			}
			if a := hops.askRest(d, "two"); a.status != http.StatusPartialContent || len(a.body) != 100*kib-1000 {
				t.Errorf("another relay: %d, %d bytes", a.status, len(a.body))
			}
			client := httptest.NewRecorder() // not a replica
			c.Serve(client, httptest.NewRequest(http.MethodGet, blob("a", d).Path()+"?"+RelayParameter+"=one", nil), blob("a", d))
			if client.Code != http.StatusOK {
				t.Errorf("a client: %d", client.Code)
			}
			settled()
			refused("while the blob is stored")
		})
	}
}

// TestManyBrokenRelays checks that the oldest relays are forgotten.
func TestManyBrokenRelays(t *testing.T) {
	var b brokenRelays
	for i := range maxBroken + 1 {
		b.add(fmt.Sprint(i), store.ErrDigest)
	}
	if b.code("0") != "" || b.code("1") != CodeWrong || len(b.byName) != maxBroken || len(b.order) != maxBroken {
		t.Errorf("%d of %d are remembered", len(b.byName), len(b.order))
	}
}
