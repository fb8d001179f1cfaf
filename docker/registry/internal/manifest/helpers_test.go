// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const host = "r.example"

const (
	oneBody = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}`
	twoBody = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
)

// fakeUpstream is a Getter that calls a function and counts questions.
type fakeUpstream struct {
	mu     sync.Mutex
	say    func(ctx context.Context, r route.Request, accept string) (*Answer, error)
	asked  []string // URI and Accept
	active int
	peak   int
}

func (f *fakeUpstream) Get(ctx context.Context, r route.Request, accept string) (*Answer, error) {
	f.mu.Lock()
	f.asked = append(f.asked, r.URI()+" "+accept)
	f.active++
	f.peak = max(f.peak, f.active)
	say := f.say
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.active--
		f.mu.Unlock()
	}()
	return say(ctx, r, accept)
}

func (f *fakeUpstream) says(say func(ctx context.Context, r route.Request, accept string) (*Answer, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.say = say
}

// count returns how many questions had a URI with this part.
func (f *fakeUpstream) count(part string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.asked {
		if strings.Contains(one, part) {
			n++
		}
	}
	return n
}

// atOnce returns the number of running questions.
func (f *fakeUpstream) atOnce() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.active
}

// has returns a function that answers with a 200.
func has(mediaType, body string) func(context.Context, route.Request, string) (*Answer, error) {
	return func(context.Context, route.Request, string) (*Answer, error) { return ok(mediaType, body), nil }
}

func ok(mediaType, body string) *Answer {
	header := http.Header{}
	if mediaType != "" {
		header.Set("Content-Type", mediaType)
	}
	return &Answer{Status: http.StatusOK, Header: header, Body: []byte(body)}
}

// fails returns a function that answers with an error status.
func fails(status int) func(context.Context, route.Request, string) (*Answer, error) {
	return func(context.Context, route.Request, string) (*Answer, error) {
		return &Answer{Status: status, Code: "CODE", Message: "message"}, nil
	}
}

// hangs does not answer until ctx is done.
func hangs(ctx context.Context, _ route.Request, _ string) (*Answer, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func unreachable(context.Context, route.Request, string) (*Answer, error) {
	return nil, errors.New("connection refused")
}

// slow returns a function that calls next after a delay.
func slow(after time.Duration, next func(context.Context, route.Request, string) (*Answer, error)) func(context.Context, route.Request, string) (*Answer, error) {
	return func(ctx context.Context, r route.Request, accept string) (*Answer, error) {
		select {
		case <-time.After(after):
			return next(ctx, r, accept)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// fakeStore is a Store in memory.
type fakeStore struct {
	mu      sync.Mutex
	files   map[string]string
	puts    int
	stats   int
	putting func(path string)
	getting func(path string)
}

func newStore() *fakeStore { return &fakeStore{files: map[string]string{}} }

func (s *fakeStore) GetContent(_ context.Context, path string) ([]byte, error) {
	if s.getting != nil {
		s.getting(path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	content, ok := s.files[path]
	if !ok {
		return nil, driver.PathNotFoundError{Path: path}
	}
	return []byte(content), nil
}

func (s *fakeStore) PutContent(_ context.Context, path string, content []byte) error {
	if s.putting != nil {
		s.putting(path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !driver.PathRegexp.MatchString(path) {
		return errors.New("invalid path")
	}
	s.puts++
	s.files[path] = string(content)
	return nil
}

func (s *fakeStore) Stat(_ context.Context, path string) (driver.FileInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats++
	content, ok := s.files[path]
	if !ok {
		return nil, driver.PathNotFoundError{Path: path}
	}
	return driver.FileInfoInternal{FileInfoFields: driver.FileInfoFields{Path: path, Size: int64(len(content))}}, nil
}

func (s *fakeStore) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.files)
}

// handle is a Handler with a fake upstream.
type handle struct {
	*Handler
	*fakeUpstream
	t *testing.T
}

func newHandle(t *testing.T, o Options, store Store) *handle {
	f := &fakeUpstream{say: unreachable}
	o.Upstreams = map[string]Upstream{host: {Getter: f, Store: store}}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &handle{New(o), f, t}
}

// Close closes the Handler. It fails the test if an unused answer still takes room.
func (h *handle) Close() {
	h.t.Helper()
	h.Handler.Close()
	if s := h.stats(); s.InFlight != 0 || h.inFlight.usedLarge != 0 || len(h.inFlight.waiting[0])+len(h.inFlight.waiting[1]) > 0 || h.saving != 0 {
		h.t.Errorf("%d bytes in flight, %d to be saved", s.InFlight, h.saving)
	}
}

// inBubble runs a test in a synctest bubble.
func inBubble(t *testing.T, o Options, store Store, f func(h *handle)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHandle(t, o, store)
		defer h.Close()
		f(h)
	})
}

type reply struct {
	*httptest.ResponseRecorder
	result Result
	took   time.Duration
}

func (r reply) stale() bool {
	return r.Header().Get("Warning") == `110 - "Response is Stale"` && r.Header().Get("Cache-Status") == "registry-cache; hit; detail=stale"
}

// do sends a request. header lists names and values.
func (h *handle) do(method, uri string, header ...string) reply {
	return h.in(h.t.Context(), method, uri, header...)
}

func (h *handle) in(ctx context.Context, method, uri string, header ...string) reply {
	h.t.Helper()
	r := httptest.NewRequestWithContext(ctx, method, uri, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	req, refusal := route.New(host, "other.example").Parse(r.URL)
	if refusal != nil {
		h.t.Fatalf("%s: %v", uri, refusal)
	}
	w := httptest.NewRecorder()
	begun := time.Now()
	result := h.Serve(w, r, req)
	return reply{w, result, time.Since(begun)}
}

func (h *handle) get(uri string, header ...string) reply {
	h.t.Helper()
	return h.do(http.MethodGet, uri, header...)
}

// want fails the test unless a reply has this status and body.
func (h *handle) want(r reply, status int, body string) {
	h.t.Helper()
	if r.Code != status || body != "" && r.Body.String() != body {
		h.t.Errorf("got %d %q (%s), want %d %q", r.Code, r.Body, r.result, status, body)
	}
}

func (h *handle) wantAsked(part string, n int) {
	h.t.Helper()
	if got := h.count(part); got != n {
		h.t.Errorf("asked %d times for %q, want %d: %q", got, part, n, h.asked)
	}
}

func (h *handle) wantStale(r reply, body string, within time.Duration) {
	h.t.Helper()
	h.want(r, http.StatusOK, body)
	if !r.stale() || r.result != Stale {
		h.t.Errorf("not stale: %s %v", r.result, r.Header())
	}
	if r.took > within {
		h.t.Errorf("took %v, want at most %v", r.took, within)
	}
}

func (h *handle) wantFresh(r reply, body string) {
	h.t.Helper()
	h.want(r, http.StatusOK, body)
	if r.Header().Get("Warning") != "" || strings.Contains(r.Header().Get("Cache-Status"), "stale") || r.result == Stale {
		h.t.Errorf("stale: %s %v", r.result, r.Header())
	}
}

func sha(body string) string { return digest.FromString(body).String() }

func sha512(body string) string { return digest.SHA512.FromString(body).String() }

const (
	ociManifest = v1.MediaTypeImageManifest
	ociIndex    = v1.MediaTypeImageIndex
	tagURI      = "/v2/p/i/manifests/1.0"
)

func mustQuery(t *testing.T, link string) url.Values {
	t.Helper()
	target := nextTarget([]string{link})
	u, err := url.Parse(target)
	if err != nil || target == "" {
		t.Fatalf("no link: %q", link)
	}
	return u.Query()
}

// queued returns the number of waiting questions.
func (g *gate) queued() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waits
}

// stats is a snapshot of a Handler.
type stats struct {
	MemoryBytes int64 // bytes of answers and errors
	Entries     int   // entries in memory
	Checks      int   // running and waiting questions
	Queued      int   // waiting questions, included in Checks
	InFlight    int64 // bytes of answers being fetched, stored or sent
}

func (h *Handler) stats() stats {
	s := stats{}
	for _, u := range h.upstreams {
		s.Queued += u.gate.queued() + u.relays.queued()
	}
	h.inFlight.mu.Lock()
	s.InFlight = h.inFlight.used
	h.inFlight.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	s.MemoryBytes, s.Entries = h.memory.used+h.errors.used, len(h.memory.items)
	for _, c := range h.checks {
		s.Checks += len(c.attempts)
	}
	return s
}
