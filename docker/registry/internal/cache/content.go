// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pullthrough.registry_cache/docker/registry/internal/fill"
	"pullthrough.registry_cache/docker/registry/internal/manifest"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
	"pullthrough.registry_cache/docker/registry/internal/upstream"
)

// content serves requests after the store has loaded.
type content struct {
	table     *route.Table
	store     *store.Store
	upstreams []*upstream.Upstream
	fills     map[string]*fill.Handler // by upstream; they fetch from the upstream
	relays    *relays                  // nil if this is the only replica
	manifests *manifest.Handler
}

// load opens the store and returns the content served from it.
func (c *Cache) load() (*content, error) {
	cfg := c.config
	// Manifests and small blobs get half of the memory each.
	memory := max(1, int64(cfg.Store.Memory)/2)
	scrub := int64(cfg.Store.ScrubRate)
	if scrub == 0 {
		scrub = -1 // the store takes 0 as its default
	}
	opened, err := store.New(store.Options{
		Path: cfg.Store.Path, Limit: int64(cfg.Store.Limit), MemoryLimit: memory, ScrubRate: scrub,
		MinRate: max(1, int64(cfg.Fill.MinimumRate)), Adopt: cfg.Upstreams[0].Host, Logger: c.log,
	})
	if err != nil {
		return nil, err
	}
	made := &content{store: opened, fills: map[string]*fill.Handler{}, relays: newRelays(c.peers)}
	asked := upstream.NewMetrics()
	if err := errors.Join(made.add(c, asked, memory), asked.Register(c.metrics.Registerer())); err != nil {
		return nil, errors.Join(err, made.close())
	}
	c.registerMetrics(made)
	return made, nil
}

// add adds the handlers of all upstreams.
func (c *content) add(p *Cache, asked *upstream.Metrics, memory int64) error {
	cfg := p.config
	var hosts []string
	askers := map[string]manifest.Upstream{}
	for _, of := range cfg.Upstreams {
		part, err := c.store.Upstream(of.Host)
		if err != nil {
			return err
		}
		u, err := upstream.New(upstream.Options{
			Config: of, Limits: upstream.LimitsOf(cfg), Store: part, Metrics: asked, Logger: p.log, Reserve: manifest.Reserve,
		})
		if err != nil {
			return err
		}
		c.upstreams = append(c.upstreams, u)
		o := fill.Options{
			Store: part, Fetcher: u, Share: of.ShareBlobs, Log: p.log,
			Stall: cfg.Fill.StallTimeout, Wait: cfg.Outage.BlobTimeout, Abandoned: cfg.Fill.Abandoned,
		}
		asks := manifest.Upstream{Getter: upstreamGetter{u}, Store: part}
		if c.relays == nil {
			c.fills[of.Host] = fill.New(o)
		} else {
			c.fills[of.Host] = c.relays.add(of.Host, u, o, &asks)
		}
		askers[of.Host] = asks
		hosts = append(hosts, of.Host)
	}
	c.table = route.New(hosts[0], hosts[1:]...)
	c.manifests = manifest.New(manifest.Options{
		// The handler takes 0 as its default.
		Upstreams: askers, TTL: max(1, cfg.Tags.TTL), Patience: cfg.Outage.ChallengeTimeout, Remember: max(1, cfg.Outage.Remember),
		ClientTimeout: cfg.Outage.ManifestTimeout, FetchTimeout: max(cfg.Fill.StallTimeout, cfg.Outage.ManifestTimeout), Memory: memory,
		Logger: p.log,
	})
	return nil
}

// close closes the handlers, the upstreams and the store. Call it after the last client has been served.
func (c *content) close() error {
	c.relays.close()
	for _, f := range c.fills {
		f.Close()
	}
	if c.manifests != nil {
		c.manifests.Close()
	}
	var err error
	for _, u := range c.upstreams {
		err = errors.Join(err, u.Close())
	}
	return errors.Join(err, c.store.Close())
}

// registerMetrics registers metrics for the counters of other packages.
func (c *Cache) registerMetrics(m *content) {
	gauge := func(name, help string, value func(store.Stats) int64) {
		c.metrics.RegisterGauge(name, help, nil, func() float64 { return float64(value(m.store.Stats())) })
	}
	counter := func(name, help string, value func(store.Stats) int64) {
		c.metrics.RegisterCounter(name, help, nil, func() float64 { return float64(value(m.store.Stats())) })
	}
	gauge("registry_cache_disk_used_bytes", "Disk space used by the store, in allocated blocks, including deleted files that are still open.",
		func(s store.Stats) int64 { return s.UsedBytes })
	gauge("registry_cache_disk_limit_bytes", "Maximum disk space that the store may use.", func(s store.Stats) int64 { return s.LimitBytes })
	gauge("registry_cache_readers", "Number of open blob readers.", func(s store.Stats) int64 { return s.OpenReaders })
	counter("registry_cache_evictions_total", "Number of blobs and manifests evicted to make room.",
		func(s store.Stats) int64 { return s.Evictions })
	counter("registry_cache_evicted_bytes_total", "Disk space freed by evictions.", func(s store.Stats) int64 { return s.EvictedBytes })
	counter("registry_cache_unkept_total", "Number of bodies sent to clients but not stored.", func(s store.Stats) int64 { return s.Unkept })
	counter("registry_cache_corrupt_total", "Number of stored blobs dropped because they were corrupt or unreadable.",
		func(s store.Stats) int64 { return s.Corrupt })
	counter("registry_cache_slow_readers_total", "Number of readers disconnected because they slowed down a transfer that does not fit on the disk.",
		func(s store.Stats) int64 { return s.SlowReaders })
	for host, f := range m.fills {
		labels := prometheus.Labels{"upstream": host}
		c.metrics.RegisterGauge("registry_cache_fills", "Number of blob transfers in progress from the upstream.", labels, func() float64 { return float64(f.Stats().Running) })
		c.metrics.RegisterCounter("registry_cache_fills_failed_total", "Number of failed blob transfers from the upstream.", labels,
			func() float64 { return float64(f.Stats().Failed) })
	}
	c.registerPeerMetrics(m)
	if c.auth != nil {
		c.metrics.RegisterGauge("registry_cache_htpasswd_users", "Number of users in the htpasswd file; 0 if the file is missing, malformed or empty.", nil,
			func() float64 { return float64(c.auth.Stats().Users) })
		c.metrics.RegisterCounter("registry_cache_htpasswd_failures_total", "Number of versions of the htpasswd file that could not be loaded.", nil,
			func() float64 { return float64(c.auth.Stats().ReloadFailures) })
		c.metrics.RegisterGauge("registry_cache_credentials_waiting", "Number of credentials waiting to be checked.", nil,
			func() float64 { return float64(c.auth.Stats().Waiting) })
	}
}

// upstreamGetter adapts an upstream to manifest.Getter.
type upstreamGetter struct{ upstream *upstream.Upstream }

// Get returns the upstream's answer, which may be an error.
func (a upstreamGetter) Get(ctx context.Context, r route.Request, accept string) (*manifest.Answer, error) {
	got, err := a.upstream.Get(ctx, r, accept)
	if refused, ok := errors.AsType[*upstream.Error](err); ok {
		return &manifest.Answer{Status: refused.Status, Code: refused.Code, Message: refused.Message, Header: refused.Header()}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", a.upstream.Name(), err)
	}
	answer := &manifest.Answer{Status: 200, Header: got.Header, Body: got.Body, Stale: !got.Fresh()}
	if !got.Asked.IsZero() { // requests by digest have no age
		answer.Age = time.Since(got.Asked)
	}
	return answer, nil
}

var _ fill.Fetcher = (*upstream.Upstream)(nil)
