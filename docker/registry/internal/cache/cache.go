// SPDX-License-Identifier: GPL-3.0-or-later

// Package cache assembles and runs the program: one process that serves clients from one store, and fetches missing
// content from the upstreams.
package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"pullthrough.registry_cache/docker/registry/internal/auth"
	"pullthrough.registry_cache/docker/registry/internal/config"
	"pullthrough.registry_cache/docker/registry/internal/metrics"
	"pullthrough.registry_cache/docker/registry/internal/server"
)

// A Cache is one replica of the cache. It serves while Run runs.
type Cache struct {
	config   *config.Config
	log      *slog.Logger
	metrics  *metrics.Metrics
	auth     *auth.Checker // nil: no credential is required
	content  atomic.Pointer[content]
	clients  endpoint
	peers    *peers     // nil if this is the only replica
	internal []endpoint // for metrics and the profiler
}

// An endpoint is a server with its listener.
type endpoint struct {
	server   *server.Server
	listener net.Listener
}

// New returns a cache that listens but does not serve yet. It writes to the access log if the configuration enables it.
func New(cfg *config.Config, log, access *slog.Logger) (*Cache, error) {
	c := &Cache{config: cfg, log: log, metrics: metrics.New()}
	if err := c.open(access); err != nil {
		c.closeOpened()
		return nil, err
	}
	return c, nil
}

// open reads the files named in the configuration and opens the listeners.
func (c *Cache) open(access *slog.Logger) (err error) {
	cfg := c.config
	limits := server.Limits{
		HeaderBytes: int(cfg.Limits.HeaderBytes), HeaderTimeout: cfg.Limits.HeaderTimeout, IdleTimeout: cfg.Limits.IdleTimeout,
		SendTimeout: cfg.Limits.SendTimeout, UnauthenticatedConnections: cfg.Limits.UnauthenticatedConnections,
	}
	o := server.Options{
		Handler: http.HandlerFunc(c.serve), Checker: allowAll{}, Ready: c.loaded, Limits: limits, Drain: cfg.Drain, Log: c.log,
		Access: access, AccessEvery: int(cfg.Log.Access), Observe: c.metrics.CountEvent, Record: c.record,
	}
	if !cfg.Auth.None {
		if c.auth, err = auth.New(auth.Options{Path: cfg.Auth.Htpasswd, Log: c.log}); err != nil {
			return fmt.Errorf("auth.htpasswd: %w", err) // err names the file and the fix
		}
		o.Checker = htpasswdChecker{c.auth}
	}
	if t := cfg.TLS; t != nil {
		if o.Certificate, err = server.LoadCertificate(t.Certificate, t.Key, c.log, c.metrics.CountEvent); err != nil {
			return configError("tls", "cannot be used", t.Certificate+" and "+t.Key, err, "name two PEM files that belong together")
		}
	}
	if c.clients.server, err = server.New(o); err != nil {
		return err
	}
	if c.clients.listener, err = listen("listen", cfg.Listen); err != nil {
		return err
	}
	if c.peers, err = c.openPeers(limits); err != nil {
		return err
	}
	if cfg.Metrics != nil {
		shown := server.NewMetrics(c.metrics.Handler(c.log), c.clients.server.Ready, limits, c.log, nil)
		err = c.addInternal("metrics.listen", cfg.Metrics.Listen, shown)
	}
	if err == nil && cfg.Pprof != nil {
		err = c.addInternal("pprof.listen", cfg.Pprof.Listen, server.NewProfiler(limits, c.log, nil))
	}
	return err
}

// addInternal opens the listener of a server for metrics, the profiler or other replicas.
func (c *Cache) addInternal(key, address string, s *server.Server) error {
	l, err := listen(key, address)
	if err == nil {
		c.internal = append(c.internal, endpoint{s, l})
	}
	return err
}

// listen listens on an address. Errors name the configuration key.
func listen(key, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, configError(key, "cannot be used", address, err, "choose an address of this machine and a free port, for example :5000")
	}
	return l, nil
}

// configError returns an error in the form of package config.
func configError(key, what, got string, err error, fix string) error {
	return config.Errors{{Key: key, What: what + ": " + err.Error(), Got: got, Fix: fix}}
}

// closeOpened closes everything that open has opened.
func (c *Cache) closeOpened() {
	for _, e := range append(c.internal, c.clients, c.peers.endpoint()) {
		if e.listener != nil {
			_ = e.listener.Close() // never used
		}
	}
	c.peers.close()
	if c.auth != nil {
		c.auth.Close()
	}
}

// Address returns the address of the client port.
func (c *Cache) Address() net.Addr { return c.clients.listener.Addr() }

// loaded reports whether the store is loaded.
func (c *Cache) loaded() bool { return c.content.Load() != nil }

// Run serves until ctx is done, then drains. It must be called only once. Probes are answered while a large store
// loads. If the store cannot be used, the error is a *store.ConfigError.
func (c *Cache) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// Metrics and the profiler stop last, so that the shutdown can be observed.
	aside, stopAside := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAside()
	clients, hops, others := &serverGroup{failed: stop}, &serverGroup{failed: stop}, &serverGroup{failed: stop}
	for _, e := range c.internal {
		others.run(aside, e)
	}
	clients.run(ctx, c.clients)
	c.peers.run(hops)
	c.log.Info("Listening", "address", c.Address().String())

	loaded, err := c.load()
	if err == nil {
		c.peers.waitForMembers(ctx)
		c.content.Store(loaded)
		c.log.Info("Ready")
		<-ctx.Done()
	}
	stop()
	left := make(chan struct{})
	c.peers.drain(hops, c.handOver, left, c.config.Drain/2)
	err = errors.Join(err, clients.wait())
	close(left)
	err = errors.Join(err, hops.wait())
	if loaded != nil {
		err = errors.Join(err, loaded.close())
	}
	c.peers.close()
	if c.auth != nil {
		c.auth.Close()
	}
	stopAside()
	return errors.Join(err, others.wait())
}

// A serverGroup is a group of running servers.
type serverGroup struct {
	failed func() // called if a server fails
	mu     sync.Mutex
	err    error
	wg     sync.WaitGroup
}

func (g *serverGroup) run(ctx context.Context, e endpoint) {
	g.wg.Go(func() {
		if err := e.server.Run(ctx, e.listener); err != nil {
			g.mu.Lock()
			g.err = errors.Join(g.err, err)
			g.mu.Unlock()
			g.failed()
		}
	})
}

func (g *serverGroup) wait() error {
	g.wg.Wait()
	return g.err
}
