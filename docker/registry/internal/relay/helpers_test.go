// SPDX-License-Identifier: GPL-3.0-or-later

package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"pullthrough.registry_cache/docker/registry/internal/fill"
	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patienceOfTests = 10 * time.Second

// members are other replicas whose behavior a test sets.
type members struct {
	order []string // order of ownership for every key; "self" is this replica

	mu    sync.Mutex
	asked []string // NAME, or NAME! for stored content, with the range
	uris  []string
	state map[string]peer.State
	leave map[string]bool
	// does is the behavior of members, by name.
	does map[string]func(ctx context.Context, header http.Header, c peer.CallOptions) (*http.Response, error)
}

func (m *members) Rank(string) (ranks []peer.Rank) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range m.order {
		if m.state[name] != peer.Out {
			ranks = append(ranks, peer.Rank{Name: name, Self: name == "self", Suspect: m.state[name] == peer.Suspect, Leaving: m.leave[name]})
		}
	}
	return ranks
}

func (m *members) State(name string) peer.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state[name]
}

func (m *members) set(name string, s peer.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state[name] = s
}

func (m *members) Do(ctx context.Context, name, _, uri string, header http.Header, c peer.CallOptions) (*http.Response, error) {
	what := name
	if c.StoreOnly {
		what += "!"
	}
	if of := header.Get("Range"); of != "" {
		what += " " + of
	}
	m.mu.Lock()
	m.asked, m.uris = append(m.asked, what), append(m.uris, uri)
	answer := m.does[name]
	m.mu.Unlock()
	if answer == nil {
		return nil, gone(name)
	}
	return answer(ctx, header, c)
}

func (m *members) seen() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	asked := m.asked
	m.asked = nil
	if n := len(asked); n > 1 && strings.HasSuffix(asked[n-2], "!") {
		slices.Sort(asked[n-2:]) // they are asked concurrently
	}
	return strings.Join(asked, ", ")
}

func gone(name string) error {
	return &peer.Error{Result: peer.Unreachable, Member: name, Err: errors.New("gone")}
}

// cut is a body that ends with an error.
type cut struct{ io.Reader }

func (c cut) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	if err == io.EOF {
		err = gone("it")
	}
	return n, err
}

// content returns the requested range of b, and cuts the body after most bytes.
func content(b []byte, most int) func(context.Context, http.Header, peer.CallOptions) (*http.Response, error) {
	return func(_ context.Context, header http.Header, _ peer.CallOptions) (*http.Response, error) {
		at, resp := 0, &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: int64(len(b))}
		if of := header.Get("Range"); of != "" {
			if _, err := fmt.Sscanf(of, "bytes=%d-", &at); err != nil {
				return nil, err
			}
			resp.StatusCode, resp.ContentLength = http.StatusPartialContent, int64(len(b)-at)
			resp.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(b)-1, len(b)))
		}
		part := b[at:]
		resp.Body = io.NopCloser(bytes.NewReader(part))
		if len(part) > most {
			resp.Body = io.NopCloser(cut{bytes.NewReader(part[:most])})
		}
		return resp, nil
	}
}

// status returns an error response.
func status(n int, code string) func(context.Context, http.Header, peer.CallOptions) (*http.Response, error) {
	return func(context.Context, http.Header, peer.CallOptions) (*http.Response, error) {
		body := fmt.Sprintf(`{"errors":[{"code":%q,"message":"m"}]}`, code)
		header := http.Header{}
		peer.SetAge(header, time.Second, false)
		return &http.Response{StatusCode: n, Header: header, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}, nil
	}
}

// fetcher is the Fetcher of this replica's own fills.
type fetcher func(context.Context, route.Request, *store.Growing) error

func (f fetcher) Fetch(ctx context.Context, q route.Request, g *store.Growing) error {
	return f(ctx, q, g)
}

// health is the health of an upstream whose challenge takes some time.
type health struct {
	mu    sync.Mutex
	takes time.Duration
	out   bool
	was   atomic.Bool
	looks int
}

func (h *health) IsDown(time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.was.Load() {
		return h.out
	}
	h.looks++
	time.Sleep(h.takes)
	h.was.Store(h.out)
	return h.out
}

func (h *health) WasDown() bool { return h.was.Load() }

// replica is a relay under test.
type replica struct {
	health
	*Relay
	*members
	t     *testing.T
	part  *store.Upstream
	blob  []byte
	own   int // number of fetches by this replica
	fails error
}

func newReplica(t *testing.T, order ...string) *replica {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	disk, err := store.New(store.Options{Path: t.TempDir(), Limit: store.MinLimit, ScrubRate: -1, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	part, err := disk.Upstream("one.example")
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{t: t, part: part, blob: testutil.RandomBytes(1 << 20), members: &members{
		order: order, state: map[string]peer.State{}, leave: map[string]bool{},
		does: map[string]func(context.Context, http.Header, peer.CallOptions) (*http.Response, error){},
	}}
	r.Relay = New(Options{Peers: r.members, Health: &r.health, Upstream: "one.example", Share: true, Store: part, Log: log})
	upstream := fetcher(func(_ context.Context, q route.Request, g *store.Growing) error {
		r.own++
		if r.fails != nil {
			return r.fails
		}
		g.SetSize(int64(len(r.blob)))
		if _, err := g.WriteAt(r.blob, 0); err != nil {
			return err
		}
		return g.Keep(part, q.Repository)
	})
	own := fill.New(fill.Options{Store: part, Fetcher: r.Stored(upstream), Share: true, Log: log})
	r.SetOwn(own)
	t.Cleanup(func() {
		own.Close()
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *replica) request() route.Request {
	return route.Request{Kind: route.Blob, Upstream: "one.example", Repository: "a", Digest: digest.FromBytes(r.blob)}
}

// fetch calls a Fetcher for the blob, and returns the final state and the error.
func (r *replica) fetch(f fill.Fetcher) (store.State, error) {
	g := r.part.Grow(r.request().Digest, -1)
	defer g.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), patienceOfTests)
	defer cancel()
	err := f.Fetch(ctx, r.request(), g)
	state, _ := g.State()
	return state, err
}

// want checks how a fetch ended and which members were asked.
func (r *replica) want(what string, state store.State, err error, whole bool, asked string) {
	r.t.Helper()
	if got := r.seen(); got != asked || whole != (state == store.Complete && err == nil) {
		r.t.Errorf("%s: asked %q, not %q; state %d, %v", what, got, asked, state, err)
	}
}
