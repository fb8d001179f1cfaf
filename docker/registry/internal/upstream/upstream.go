// SPDX-License-Identifier: GPL-3.0-or-later

// Package upstream is the client of an upstream registry. It includes distribution's app for the upstream, requests,
// credentials, time limits, outages, and the translation of the upstream's responses for clients.
//
// # Distribution
//
// Blobs and manifests go through distribution's app in proxy mode, which stores, links and verifies them. Its client
// uses Go's default transport. Therefore, the remote URL of each app has a private scheme (registry-cache://ID) that is
// registered there; the default transport is not changed otherwise, and any number of apps can run side by side. Behind
// that scheme, this package asks the real upstream and answers distribution. It keeps the raw manifest, so that a
// manifest that distribution cannot parse (schema 1, artifact manifests, unknown media types) reaches the client as the
// upstream sent it, without a second request. Lists of tags and referrers are requested from the upstream directly.
//
// # Credentials
//
// Distribution's own login is not used: it runs the helper under a mutex without a deadline, silently falls back to
// anonymous access, and requests a token for each client request. Its packages for this are internal. Instead, this
// package authorizes every request with the auth client of oras-go, and shares one helper call and one token among all
// requests.
//
// # Redirects
//
// Blobs are often stored elsewhere, so redirects are followed to any host, including private addresses. Redirects to
// loopback, link-local and multicast addresses and to metadata services of clouds are refused, unless the upstream
// itself has such an address (see guard).
//
// # Time limits
//
// This package waits for slow responses until they stall, so that slow content arrives. Packages fill and manifest
// decide how long clients wait. A slow repository or tag does not affect others. Only an upstream that refuses or does
// not answer a request for its challenge (/v2/) counts as down as a whole, and is not asked again for a short time.
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

// userAgent is the User-Agent of requests to upstreams.
const userAgent = "pullthrough-registry-cache"

// Limits are the time limits for an upstream. All but Remember must be above 0.
type Limits struct {
	Challenge time.Duration // until an upstream that does not send its challenge counts as down
	Stall     time.Duration // maximum silence of an upstream before and during a response
	Remember  time.Duration // how long an upstream that is down is not asked again
}

// LimitsOf returns the limits in a configuration.
func LimitsOf(c *config.Config) Limits {
	return Limits{Challenge: c.Outage.ChallengeTimeout, Stall: c.Fill.StallTimeout, Remember: c.Outage.Remember}
}

// Options configure an Upstream. All fields but Reserve are required.
type Options struct {
	Config  config.Upstream
	Limits  Limits
	Store   *store.Upstream
	Metrics *Metrics
	Logger  *slog.Logger
	// Reserve waits for room for bytes in memory. It is called with the context of Get before more than 64 KiB of a
	// response are read into memory (default: no limit).
	Reserve func(ctx context.Context, bytes int64) error
}

// Upstream is one upstream registry. It is safe for concurrent use.
type Upstream struct {
	name       string
	root       *url.URL // scheme and host
	limits     Limits
	store      *store.Upstream
	log        *slog.Logger
	count      *counters
	credential *credential // nil for anonymous access
	tokens     *tokens
	transport  *http.Transport
	guard      *guard
	room       func(ctx context.Context, bytes int64) error
	plain      *http.Client // does not follow redirects
	authorized *auth.Client
	health     *health
	app        *app

	ctx  context.Context // canceled by Close
	stop context.CancelFunc

	mu     sync.Mutex
	closed bool
	runs   sync.WaitGroup
}

// New returns an upstream. It sends no requests, so that the program can start while the upstream is down.
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

// rootOf returns the root URL of an upstream in the configuration.
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
		return nil, fmt.Errorf("upstream %s: %q is not the root URL of a registry; write, for example, https://us-central1-docker.pkg.dev", c.Host, given)
	}
	return root, nil
}

// newTransport returns the transport for all requests.
func newTransport(g *guard) *http.Transport {
	return &http.Transport{
		Proxy:               g.proxy,
		DialContext:         g.dial,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true, // a digest is over the bytes as they are stored
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
		// Without pings, all requests would hang in an HTTP/2 connection that died silently.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
	}
}

// Name returns the upstream's host in image references.
func (u *Upstream) Name() string { return u.name }

// IsDown reports whether the upstream as a whole is down. If this is not known, it requests the challenge, unless the
// upstream has responded since the given time.
func (u *Upstream) IsDown(since time.Time) bool {
	return u.health.outage() != nil || u.health.check(since) != nil
}

// WasDown reports whether the upstream was down when it was last asked.
func (u *Upstream) WasDown() bool { return u.health.wasDown() }

// Close cancels all requests to the upstream and waits for them.
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

// reserve waits for room in memory. The error is a *requestError.
func (u *Upstream) reserve(ctx context.Context, bytes int64) error {
	if u.room == nil {
		return nil
	}
	if err := u.room(ctx, bytes); err != nil {
		return &requestError{full: true, message: err.Error()}
	}
	return nil
}

// spawn runs f in a goroutine for which Close waits.
func (u *Upstream) spawn(f func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		go f() // it returns at once, since all contexts are done
		return
	}
	u.runs.Go(f)
}

var errClosed = errors.New("the upstream client is closed")
