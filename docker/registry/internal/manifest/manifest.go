// SPDX-License-Identifier: GPL-3.0-or-later

// Package manifest serves manifests, tag lists and referrers.
//
// A manifest by digest never changes: once verified, it is served from memory or the store, and the upstream is not
// asked again. For a tag or referrers, the upstream is asked again after a time to live. All clients that ask for the
// same object share one check of the upstream, for HEAD and GET requests and for all accepted types. Tag lists are not
// cached; only concurrent requests share a check.
//
// # Outages
//
// Known tags and referrers are served as stale: immediately after an error, or after Options.Patience if the upstream
// is silent, and then immediately for Options.Remember. This applies to each object separately: a slow tag says nothing
// about other tags. Requests for unknown objects wait for Options.ClientTimeout. A check continues after its clients
// have left, so that slow content arrives and the next client finds it. If a check gets no answer, a second attempt
// starts, since the first one may hang in a dead connection. Errors are shared for Options.ShareErrors.
//
// # Limits
//
// The number of concurrent questions to an upstream is limited, in total and per repository. Repositories take turns.
// When the queue is full, the newest question about the repository with the most waiting questions is refused in favor
// of a repository with fewer. Therefore, a slow repository delays only its own questions. A known limit: a client that
// asks for many slow repositories, each once, can take all places and the whole queue. Then repositories are asked in
// the order of arrival, and new ones get 503 until there is room. Cached content is served even then.
//
// # Memory
//
// Cached answers take up to Options.Memory. Answers that are being fetched, stored or sent take up to Options.InFlight,
// for all upstreams together; the same bytes count once, however many clients receive them. An answer without room
// waits for half of Options.ClientTimeout, then its clients get 503. A quarter of the room is reserved for answers of
// up to 64 KiB, which are nearly all, so that large answers never block small ones. A client may take half a minute,
// and a second for each 64 KiB, to receive a large answer. A known limit: clients that repeatedly receive large answers
// as slowly as allowed can block other large answers.
//
// # Media types
//
// Tags are requested with a fixed Accept header, so that clients cannot create many copies of a tag. If a client does
// not accept the type of the manifest, the upstream is asked once more, with those of the client's types that this
// package knows, of which there are few combinations. The client gets this answer. An upstream that returns the same
// manifest anyway, as Artifact Registry does, is not asked again until the tag moves.
package manifest

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"
	"weak"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/server"
)

const (
	// bodyLimit is the maximum size of an upstream's answer, in bytes. The specification recommends this limit for
	// manifests.
	bodyLimit = 4 << 20
	// listLimit is the maximum size of a tag list, in bytes. Tag lists are not cached.
	listLimit = 16 << 20
	// touchEvery is how often content served from memory is marked as used in the store.
	touchEvery = time.Minute
	// defaultPageSize is the page size if a client sends "last" without "n", as distribution's client does.
	defaultPageSize = "1000"
)

// A Getter gets manifests, tag lists and referrers from one upstream, or from other replicas.
type Getter interface {
	// Get returns the upstream's answer, which may be an error response. It returns an error only if there is no
	// answer. It waits until there is an answer or ctx is done; the Handler decides how long clients wait. The body
	// must be as the upstream sent it.
	Get(ctx context.Context, r route.Request, accept string) (*Answer, error)
}

// An Upstream configures one upstream of a Handler.
type Upstream struct {
	Getter Getter
	// Store keeps answers over a restart. It may be nil.
	Store Store
	// Relay asks other replicas, and Owned reports which requests go to Getter instead. Both are nil if there are no
	// other replicas.
	Relay Getter
	Owned func(route.Request) bool
}

// Options configure a Handler. The zero value of a field means its default.
type Options struct {
	// Upstreams are the upstreams to serve, by host.
	Upstreams map[string]Upstream
	// TTL is how long an answer for a tag or referrers is used before the upstream is asked again (default 1 s).
	TTL time.Duration
	// Patience is how long a client waits for a silent upstream if there is an old answer (default 2 s).
	Patience time.Duration
	// Remember is how long after that other clients get the old answer without waiting (default 3 s).
	Remember time.Duration
	// ClientTimeout is how long a client waits if there is no old answer (default 5 s).
	ClientTimeout time.Duration
	// FetchTimeout is how long a check may take (default 60 s).
	FetchTimeout time.Duration
	// ShareErrors is how long an error is returned to identical requests (default 2 s).
	ShareErrors time.Duration
	// Memory is the maximum size of cached answers from all upstreams, in bytes (default 16 MiB).
	Memory int64
	// InFlight is the maximum size of answers from all upstreams that are being fetched, stored or sent, in bytes
	// (default 4 * Memory, at least 64 MiB). A quarter of it is reserved for answers of up to 64 KiB.
	InFlight int64
	// Checks is the maximum number of concurrent questions to an upstream (default 64), and ChecksPerRepository the
	// maximum per repository (default 16). Queue is how many questions may wait (default 1024). If several repositories
	// are in the queue, one may take at most a quarter of it. Further questions get 503. Questions that take longer
	// than twice ClientTimeout move aside; up to Checks of them may be aside.
	Checks, ChecksPerRepository, Queue int
	// Logger is the logger for errors (default slog.Default).
	Logger *slog.Logger
}

// withDefaults returns the options with defaults for zero values.
func (o Options) withDefaults() Options {
	span := func(v *time.Duration, def time.Duration) {
		if *v == 0 {
			*v = def
		}
	}
	count := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	span(&o.TTL, time.Second)
	span(&o.Patience, 2*time.Second)
	span(&o.Remember, 3*time.Second)
	span(&o.ClientTimeout, 5*time.Second)
	span(&o.FetchTimeout, time.Minute)
	span(&o.ShareErrors, 2*time.Second)
	count(&o.Checks, 64)
	count(&o.ChecksPerRepository, 16)
	count(&o.Queue, 1024)
	if o.Memory == 0 {
		o.Memory = 16 << 20
	}
	if o.InFlight == 0 {
		o.InFlight = max(4*o.Memory, minInFlight)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// A Handler serves the manifests, tag lists and referrers of its upstreams. It is safe for concurrent use.
type Handler struct {
	opts      Options
	log       *slog.Logger
	upstreams map[string]*upstream

	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup

	inFlight *byteSemaphore // for answers in flight

	mu     sync.Mutex
	closed bool
	saving int64 // bytes being written or waiting for the disk
	memory *lru[question, *entry]
	large  weakMap[question, Answer] // manifests too large to be cached
	errors *lru[question, sharedError]
	checks map[question]*check
}

type upstream struct {
	getter  Getter
	gate    *gate
	relay   Getter // asks other replicas; nil if there are none
	owned   func(route.Request) bool
	relays  *gate // gate for questions to other replicas
	archive *archive
	saves   int // answers being written or waiting for the disk; guarded by Handler.mu
}

// A question is a request to an upstream. The class is empty, except for a tag whose type a client does not accept.
type question struct {
	route.Request
	class   class
	relayed bool // other replicas are asked instead of the upstream; see ask
	own     bool // the upstream is asked even if another replica owns the key
}

// forDigest returns the question for a digest in the same repository.
func (q question) forDigest(d digest.Digest) question {
	return question{Request: route.Request{Kind: route.Manifest, Upstream: q.Upstream, Repository: q.Repository, Digest: d}}
}

// isByDigest reports whether the question is for a manifest by digest, whose answer never changes.
func (q question) isByDigest() bool { return q.Kind == route.Manifest && q.Digest != "" }

// entry is the last answer to a question.
type entry struct {
	answer  *Answer       // answer for a digest or referrers
	digest  digest.Digest // digest of a tag, whose answer is in the entry of the digest
	learned time.Time     // zero if by an earlier process
	fresh   time.Time     // the upstream is not asked again before this time
	silent  time.Time     // no client waits for the upstream before this time
	touched time.Time     // when it was last marked as used in the store
	saved   bool          // it is in the store
	uniform digest.Digest // for a tag: the upstream returns this digest for all accepted types
}

// sharedError is an error that is returned to identical requests for some time.
type sharedError struct {
	answer  *Answer
	learned time.Time
	until   time.Time
}

// New returns a Handler. The caller must close it.
func New(o Options) *Handler {
	o = o.withDefaults()
	h := &Handler{
		opts:      o,
		log:       o.Logger.With("component", "manifest"),
		upstreams: map[string]*upstream{},
		memory:    newLRU[question, *entry](o.Memory - o.Memory/16),
		errors:    newLRU[question, sharedError](o.Memory / 16),
		checks:    map[question]*check{},
		large:     weakMap[question, Answer]{items: map[question]weak.Pointer[Answer]{}},
		inFlight:  newByteSemaphore(o.InFlight, o.ClientTimeout/2),
	}
	for host, u := range o.Upstreams {
		h.upstreams[host] = &upstream{
			getter: u.Getter, gate: newGate(o.Checks, o.ChecksPerRepository, o.Checks, o.Queue),
			relay: u.Relay, owned: u.Owned, relays: newGate(o.Checks, o.ChecksPerRepository, o.Checks, o.Queue),
			archive: &archive{store: u.Store, inFlight: h.inFlight, log: h.log},
		}
	}
	h.ctx, h.stop = context.WithCancel(context.Background())
	return h
}

// Close cancels the running checks and waits for them. Later requests are answered from memory and the store.
func (h *Handler) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.stop()
	h.running.Wait()
}

// Serve answers a client's request for a manifest, a tag list or referrers, and returns its result.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, req route.Request) Result {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		server.WriteError(w, r, http.StatusMethodNotAllowed, "UNSUPPORTED", "this cache is read-only")
		return Failed
	}
	a, result := h.Get(r.Context(), req, r.Header["Accept"])
	if result != ClientGone {
		a.Write(w, r, req, result)
	}
	return result
}

// Get returns the answer to a request with the given Accept fields, or nil if ctx is done first. The caller must write
// or release the answer, which takes room in memory until then.
func (h *Handler) Get(ctx context.Context, req route.Request, accept []string) (*Answer, Result) {
	u := h.upstreams[req.Upstream]
	switch {
	case u == nil:
		return errorAnswer(http.StatusNotFound, "NAME_UNKNOWN", "this cache does not serve that registry"), Absent
	case req.Kind != route.Manifest && req.Kind != route.Tags && req.Kind != route.Referrers:
		return errorAnswer(http.StatusNotFound, "UNSUPPORTED", "this cache has no such endpoint"), Absent
	}
	return h.get(ctx, u, question{Request: normalize(req)}, accept, h.opts.ClientTimeout)
}

// get returns the answer to a question for a client that waits at most limit.
func (h *Handler) get(ctx context.Context, u *upstream, q question, accept []string, limit time.Duration) (*Answer, Result) {
	req := q.Request
	a, result := h.ownThenOthers(ctx, u, q, limit)
	if req.Kind == route.Manifest && req.Tag != "" && result != ClientGone && a.isOK() && !accepts(accept, a.mediaType) {
		return h.negotiate(ctx, u, q, a, result, classOf(accept), limit)
	}
	return a, result
}

// normalize returns a request in the form that is sent to an upstream.
func normalize(r route.Request) route.Request {
	if r.Kind != route.Tags || r.Query == "" {
		return r
	}
	values, err := url.ParseQuery(r.Query)
	if err == nil && values.Has("last") && !values.Has("n") {
		values.Set("n", defaultPageSize)
		r.Query = values.Encode()
	}
	return r
}

// negotiate returns the upstream's answer for a client that does not accept the type of a tag's manifest.
func (h *Handler) negotiate(ctx context.Context, u *upstream, q question, a *Answer, result Result, c class, limit time.Duration) (*Answer, Result) {
	if c == 0 { // the client accepts no known type
		return a, result
	}
	h.mu.Lock()
	k, known := h.memory.get(q.cacheKey())
	uniform := known && k.uniform == a.digest
	h.mu.Unlock()
	if uniform || a.Stale {
		return a, result
	}
	narrow, narrowResult := h.answer(ctx, u, question{Request: q.Request, class: c, own: q.own}, limit)
	switch {
	case narrowResult == ClientGone:
		a.Release()
		return nil, ClientGone
	case narrow.isOutage():
		return a, result
	}
	defer a.Release()
	if narrow.digest == a.digest {
		h.mu.Lock()
		if k, known := h.memory.get(q.cacheKey()); known {
			k.uniform = a.digest
		}
		h.mu.Unlock()
	}
	return narrow, narrowResult
}
