// SPDX-License-Identifier: GPL-3.0-or-later

// Package upstream owns everything that talks to one upstream registry: distribution's app for it, the requests, the
// credential, the time limits, the memory of outages, and what the upstream's answers mean for clients.
//
// # Who does what
//
// Blobs and manifests go through distribution's app in proxy mode, which stores, links and verifies them. Its client uses
// Go's default transport, so each app's remote URL has a scheme of our own that is registered there
// (registry-cache://ID): the default transport stays as it is, and any number of apps work side by side. Behind that
// scheme this package asks the real upstream and answers distribution. On the way it keeps the raw manifest, so that one
// that distribution cannot parse (schema 1, artifact manifests, odd media types) reaches the client as the upstream sent
// it, without a second request. Lists of tags and referrers go to the upstream directly.
//
// # Credentials
//
// Distribution's own login is not used: it runs the helper under one mutex without a deadline, falls back to anonymous
// without a word, and asks for a token for each request of a client. Its packages for that are internal. Instead every
// request is authorized here, by the auth client of oras-go, with one helper call and one token shared by all requests.
//
// # Where an upstream may lead
//
// Blobs are often elsewhere, so redirects are followed to any host, private addresses included. They do not lead to loopback,
// link-local or multicast addresses or to a cloud's metadata unless the upstream itself is at such an address (see guard).
//
// # Time
//
// What is slow is waited for until it stalls: how long a client waits is for packages fill and manifest to say, so that slow
// content arrives. Nothing is learnt from one repository or tag about another. Only an upstream that refuses or is silent
// about its own challenge (/v2/) is out as a whole, and then not asked for a moment.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"pullthrough.registry_cache/docker/registry/internal/config"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

// userAgent is how the cache names itself to upstreams.
const userAgent = "pullthrough-registry-cache"

// Limits are the time limits of an upstream. All must be above 0, except that Remember may be 0.
type Limits struct {
	Challenge time.Duration // until an upstream that is silent about its challenge is out
	Stall     time.Duration // that an upstream may be silent before and during an answer
	Remember  time.Duration // that an upstream that is out is not asked again
}

// LimitsOf returns the limits of a configuration.
func LimitsOf(c *config.Config) Limits {
	return Limits{Challenge: c.Outage.ChallengeTimeout, Stall: c.Fill.StallTimeout, Remember: c.Outage.Remember}
}

// Options configure an upstream. All fields are required but Reserve.
type Options struct {
	Config  config.Upstream
	Limits  Limits
	Store   *store.Upstream
	Metrics *Metrics
	Logger  *slog.Logger
	// Reserve is called with the context of Ask before more than 64 KiB of an answer are read into memory, and waits for room
	// for as many bytes (default: there is always room).
	Reserve func(ctx context.Context, bytes int64) error
}

// Upstream is one upstream registry. Its methods may be called from several goroutines.
type Upstream struct {
	name       string
	root       *url.URL // scheme and host
	limits     Limits
	store      *store.Upstream
	log        *slog.Logger
	count      *counters
	credential *credential // nil: anonymous is meant
	tokens     *tokens
	transport  *http.Transport
	guard      *guard
	room       func(ctx context.Context, bytes int64) error
	plain      *http.Client // follows no redirects
	authorized *auth.Client
	health     *health
	app        *app

	ctx  context.Context // ends with Close
	stop context.CancelFunc

	mu     sync.Mutex
	closed bool
	runs   sync.WaitGroup
}

// New returns an upstream. It sends no request, so that the program starts while the upstream is out.
func New(o Options) (*Upstream, error) {
	root, err := rootOf(o.Config)
	if err != nil {
		return nil, err
	}
	u := &Upstream{
		name: o.Config.Host, root: root, limits: o.Limits, store: o.Store,
		log:   o.Logger.With("component", "upstream", "upstream", o.Config.Host),
		count: o.Metrics.forUpstream(o.Config.Host),
		guard: newGuard(root),
		room:  o.Reserve,
	}
	u.transport = newTransport(u.guard)
	u.ctx, u.stop = context.WithCancel(context.Background())
	if c := o.Config.Credential; c != nil {
		u.credential = newCredential(u.ctx, *c, u.log, u.spawn)
	}
	u.tokens = newTokens(u.spawn)
	u.plain = &http.Client{Transport: &limitedTransport{u}, CheckRedirect: checkRedirect}
	u.authorized = &auth.Client{Client: u.plain, Credential: u.login, Cache: u.tokens}
	u.health = newHealth(u.limits, u.challenge)
	if u.app, err = newApp(u); err != nil {
		u.stop()
		return nil, err
	}
	return u, nil
}

// rootOf returns the root URL of a configured upstream.
func rootOf(c config.Upstream) (*url.URL, error) {
	given := c.URL
	if given == "" {
		given = "https://" + c.Host
	}
	root, err := url.Parse(strings.TrimSuffix(given, "/"))
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", c.Host, err)
	}
	if root.Host == "" || root.Path != "" {
		return nil, fmt.Errorf("upstream %s: %q is no root of a registry; write, for example, https://us-central1-docker.pkg.dev", c.Host, given)
	}
	return root, nil
}

// newTransport returns the transport of all requests.
func newTransport(g *guard) *http.Transport {
	return &http.Transport{
		Proxy:               g.proxy,
		DialContext:         g.dial,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true, // a digest is over the bytes as they are stored
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
		// A connection of HTTP/2 that died without a word would take all requests with it.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
	}
}

// Name returns the upstream's host in image references.
func (u *Upstream) Name() string { return u.name }

// IsOut reports whether the whole upstream is out. If that is not known, it is asked for its challenge unless it has answered
// since a time.
func (u *Upstream) IsOut(since time.Time) bool {
	return u.health.outage() != nil || u.health.check(since) != nil
}

// WasOut reports whether the upstream was out when it was asked last.
func (u *Upstream) WasOut() bool { return u.health.wasOut() }

// Close ends all requests to the upstream and waits for them.
func (u *Upstream) Close() error {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	u.stop()
	u.runs.Wait()
	err := u.app.close()
	u.transport.CloseIdleConnections()
	return err
}

// reserve waits for room in memory. Its error is a *requestError.
func (u *Upstream) reserve(ctx context.Context, bytes int64) error {
	if u.room == nil {
		return nil
	}
	if err := u.room(ctx, bytes); err != nil {
		return &requestError{full: true, message: err.Error()}
	}
	return nil
}

// spawn runs f in a goroutine that Close waits for.
func (u *Upstream) spawn(f func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		go f() // it ends at once, since all contexts have ended
		return
	}
	u.runs.Go(f)
}

var errClosed = errors.New("the upstream was closed")
