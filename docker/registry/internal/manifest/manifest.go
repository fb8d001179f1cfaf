// SPDX-License-Identifier: GPL-3.0-or-later

// Package manifest serves manifests, lists of tags and referrers.
//
// A manifest by digest never changes: once its bytes are right it is served from memory or from the store, and the upstream
// is not asked again. What a tag or a list of referrers is, the upstream is asked after a time to live. Everybody who asks
// for the same waits for the same check, HEAD or GET, whatever types they accept. A list of tags is asked for each time;
// only those who ask at the same time share it.
//
// # When the upstream is out
//
// Tags and referrers that were known before are served as stale: at once after an error, and after Options.Patience where the
// upstream is silent; at once for Options.Remember after that. Each is for itself: a slow tag says nothing about others.
// What is not known waits for Options.ClientTimeout. A check goes on when its clients have gone, so that slow content
// arrives: the next client finds it. While one is silent a second one is made now and then, which finds the upstream back
// where the first hangs in a dead connection. Errors are shared for Options.ShareErrors.
//
// # Who is asked about
//
// An upstream is asked a bounded number of questions at once, and so is each of its repositories; repositories take turns. When
// the queue is full, the newest question of the repository with most that wait is refused for one with fewer. So one slow
// repository holds up its own questions only. What remains: a client that asks for many slow repositories, each once, takes
// all places and the queue. Then whichever repository came first is asked about first, and new ones get 503 until one has
// its turn. What is known is served all the same.
//
// # Memory
//
// Answers that are remembered take up to Options.Memory. Those that are fetched, written to the store and sent to clients
// take up to Options.InFlight, for all upstreams; the same bytes count once, however many clients are sent them. An answer
// that finds no room waits for half of Options.ClientTimeout, then its clients get 503. Large answers leave a quarter to those of up
// to 64 KiB, which nearly all are, so large ones never keep small ones out. A client has half a minute and a second for each
// 64 KiB to take a large one. What remains: clients that take large ones as slowly as they may, again and again, keep other
// large ones out.
//
// # Media types
//
// A tag is asked for with an Accept of this package's own, so that clients cannot make copies of it by theirs. If a client
// names types and that of the manifest is not among them, the upstream is asked once more, with those of the client's types
// that this package knows (there are few sets of them), and its answer is the client's. An upstream that answers with the
// same manifest all the same, as Artifact Registry does, is not asked again until the tag moves.
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
	// bodyLimit is the most bytes that an answer of an upstream may have, as the specification recommends for manifests.
	bodyLimit = 4 << 20
	// listLimit is the same for a list of tags, which is not kept.
	listLimit = 16 << 20
	// touchEvery is how exactly the store learns of what is served from memory.
	touchEvery = time.Minute
	// defaultPageSize is how many tags are asked for where a client says "last" without "n", which distribution's client forgets.
	defaultPageSize = "1000"
)

// A Getter gets manifests, lists of tags and referrers from one upstream, or from the replica that asks it for all.
type Getter interface {
	// Get returns the upstream's answer, which may be an error of the upstream. It returns an error only if there is no answer. It
	// goes on until it has an answer or the context ends: how long clients wait is decided here. The body is as the upstream sent it.
	Get(ctx context.Context, r route.Request, accept string) (*Answer, error)
}

// An Upstream configures one upstream of a Handler.
type Upstream struct {
	Getter Getter
	// Store keeps answers over a restart; nil: nothing does.
	Store Store
	// Relay asks other replicas, and Owned reports which requests go to Getter instead; nil: there are none.
	Relay Getter
	Owned func(route.Request) bool
}

// Options configure a Handler. The zero value of a field means its default.
type Options struct {
	// Upstreams are those that are served, by host.
	Upstreams map[string]Upstream
	// TTL is how long a tag or referrers are not asked for again (default 1 s).
	TTL time.Duration
	// Patience is how long a client waits for a silent upstream where an old answer is at hand (default 2 s).
	Patience time.Duration
	// Remember is how long after that nobody waits for the same (default 3 s).
	Remember time.Duration
	// ClientTimeout is how long a client waits where none is (default 5 s).
	ClientTimeout time.Duration
	// FetchTimeout is how long a check goes on (default 60 s).
	FetchTimeout time.Duration
	// ShareErrors is how long an error is the answer to all who ask for the same (default 2 s).
	ShareErrors time.Duration
	// Memory is the most that answers of all upstreams take in memory, in bytes (default 16 MiB).
	Memory int64
	// InFlight is the most that answers of all upstreams take while they are fetched, written to the store and sent to clients,
	// in bytes (default 4 x Memory, at least 64 MiB). A quarter of it is for those of up to 64 KiB.
	InFlight int64
	// Checks is how many questions an upstream is asked at once (default 64), ChecksPerRepository how many of them about one
	// repository (default 16), and Queue how many may wait (default 1024), a quarter of them about one repository while there are
	// others; what is beyond that gets 503. As many again as Checks go on aside after twice ClientTimeout.
	Checks, ChecksPerRepository, Queue int
	// Logger takes what goes wrong (default slog.Default).
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

// A Handler serves the manifests, lists of tags and referrers of some upstreams. Its methods may be called from several
// goroutines.
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
	saving int64 // bytes that are written or wait for it
	memory *lru[question, *entry]
	large  weakMap[question, Answer] // manifests that are too large for memory
	errors *lru[question, sharedError]
	checks map[question]*check
}

type upstream struct {
	getter  Getter
	gate    *gate
	relay   Getter // of other replicas; nil: there are none
	owned   func(route.Request) bool
	relays  *gate // of what is asked of them
	archive *archive
	saves   int // of answers that are written or wait for it; guarded by the Handler's mu
}

// A question is a request to an upstream. The class is empty unless the request is for a tag whose type a client does not accept.
type question struct {
	route.Request
	class   class
	relayed bool // other replicas are asked before the upstream; see ask
	own     bool // they are not asked, whoever owns the key
}

// forDigest returns the question for a digest in the same repository.
func (q question) forDigest(d digest.Digest) question {
	return question{Request: route.Request{Kind: route.Manifest, Upstream: q.Upstream, Repository: q.Repository, Digest: d}}
}

// isByDigest reports whether the question is for a manifest by digest, whose answer never changes.
func (q question) isByDigest() bool { return q.Kind == route.Manifest && q.Digest != "" }

// entry is the last answer to a question.
type entry struct {
	answer  *Answer       // of a digest or referrers
	digest  digest.Digest // of a tag, whose answer is that of the digest
	learned time.Time     // zero: before this process
	fresh   time.Time     // until when it is not asked for again
	silent  time.Time     // until when nobody waits for the upstream
	touched time.Time     // when the store heard of its use
	saved   bool          // the store has it
	uniform digest.Digest // of a tag: the upstream answers with this whatever types are accepted
}

// sharedError is an error that is shared for a while.
type sharedError struct {
	answer  *Answer
	learned time.Time
	until   time.Time
}

// New returns a Handler. It must be closed.
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

// Close ends the running checks and waits for them. Later requests are answered from memory and the store.
func (h *Handler) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.stop()
	h.running.Wait()
}

// Serve answers a client's request for a manifest, a list of tags or referrers, and returns its result.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, req route.Request) Result {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		server.WriteError(w, r, http.StatusMethodNotAllowed, "UNSUPPORTED", "This cache is read-only")
		return Failed
	}
	a, result := h.Get(r.Context(), req, r.Header["Accept"])
	if result != ClientGone {
		a.Write(w, r, req, result)
	}
	return result
}

// Get returns the answer to a request of a client that sent these Accept fields, or nil if the context ended first. The caller
// writes or releases the answer, which takes room in memory until then.
func (h *Handler) Get(ctx context.Context, req route.Request, accept []string) (*Answer, Result) {
	u := h.upstreams[req.Upstream]
	switch {
	case u == nil:
		return errorAnswer(http.StatusNotFound, "NAME_UNKNOWN", "This cache does not serve that registry"), Absent
	case req.Kind != route.Manifest && req.Kind != route.Tags && req.Kind != route.Referrers:
		return errorAnswer(http.StatusNotFound, "UNSUPPORTED", "This cache has no such endpoint"), Absent
	}
	return h.get(ctx, u, question{Request: normalize(req)}, accept, h.opts.ClientTimeout)
}

// get returns the answer to a question, for a client that waits up to a limit.
func (h *Handler) get(ctx context.Context, u *upstream, q question, accept []string, limit time.Duration) (*Answer, Result) {
	req := q.Request
	a, result := h.ownThenOthers(ctx, u, q, limit)
	if req.Kind == route.Manifest && req.Tag != "" && result != ClientGone && a.isOK() && !accepts(accept, a.mediaType) {
		return h.negotiate(ctx, u, q, a, result, classOf(accept), limit)
	}
	return a, result
}

// normalize returns a request in the form in which it is sent to an upstream.
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

// negotiate returns the upstream's answer to a client that does not accept the type of a tag's manifest.
func (h *Handler) negotiate(ctx context.Context, u *upstream, q question, a *Answer, result Result, c class, limit time.Duration) (*Answer, Result) {
	if c == 0 { // it names none that any upstream has
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
