// SPDX-License-Identifier: GPL-3.0-or-later

// Package cache is the program: one process that serves clients from one store, and asks the upstreams for what is not in it.
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

// A Cache is a program that listens, and serves while Run runs.
type Cache struct {
	config  *config.Config
	log     *slog.Logger
	metrics *metrics.Metrics
	auth    *auth.Checker // nil: everybody is let in
	content atomic.Pointer[content]
	clients endpoint
	peers   *peers     // nil: it serves alone
	aside   []endpoint // for metrics and the profiler
}

// An endpoint is a server with its listener.
type endpoint struct {
	server   *server.Server
	listener net.Listener
}

// New returns a cache that listens and serves nothing yet. The access log is used if the configuration wants one.
func New(c *config.Config, log, access *slog.Logger) (*Cache, error) {
	p := &Cache{config: c, log: log, metrics: metrics.New()}
	if err := p.open(access); err != nil {
		p.abandon()
		return nil, err
	}
	return p, nil
}

// open reads the files that the configuration names, and listens.
func (p *Cache) open(access *slog.Logger) (err error) {
	c := p.config
	limits := server.Limits{
		HeaderBytes: int(c.Limits.HeaderBytes), HeaderTimeout: c.Limits.HeaderTimeout, IdleTimeout: c.Limits.IdleTimeout,
		SendTimeout: c.Limits.SendTimeout, UnauthenticatedConnections: c.Limits.UnauthenticatedConnections,
	}
	o := server.Options{
		Handler: http.HandlerFunc(p.serve), Checker: everybody{}, Ready: p.loaded, Limits: limits, Drain: c.Drain, Log: p.log,
		Access: access, AccessEvery: int(c.Log.Access), Observe: p.metrics.Observe, Record: p.record,
	}
	if !c.Auth.None {
		if p.auth, err = auth.New(auth.Options{Path: c.Auth.Htpasswd, Log: p.log}); err != nil {
			return fmt.Errorf("auth.htpasswd: %w", err) // which names the file and the fix
		}
		o.Checker = users{p.auth}
	}
	if t := c.TLS; t != nil {
		if o.Certificate, err = server.LoadCertificate(t.Certificate, t.Key, p.log, p.metrics.Observe); err != nil {
			return problem("tls", "cannot be used", t.Certificate+" and "+t.Key, err, "name two PEM files that belong together")
		}
	}
	if p.clients.server, err = server.New(o); err != nil {
		return err
	}
	if p.clients.listener, err = listen("listen", c.Listen); err != nil {
		return err
	}
	if p.peers, err = p.openPeers(limits); err != nil {
		return err
	}
	if c.Metrics != nil {
		shown := server.NewMetrics(p.metrics.Handler(p.log), p.clients.server.Ready, limits, p.log, nil)
		err = p.addAside("metrics.listen", c.Metrics.Listen, shown)
	}
	if err == nil && c.Pprof != nil {
		err = p.addAside("pprof.listen", c.Pprof.Listen, server.NewProfiler(limits, p.log, nil))
	}
	return err
}

func (p *Cache) addAside(key, address string, s *server.Server) error {
	l, err := listen(key, address)
	if err == nil {
		p.aside = append(p.aside, endpoint{s, l})
	}
	return err
}

func listen(key, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, problem(key, "cannot be listened on", address, err, "choose an address of this machine and a free port, for example :5000")
	}
	return l, nil
}

func problem(key, what, got string, err error, fix string) error {
	return config.Problems{{Key: key, What: what + ": " + err.Error(), Got: got, Fix: fix}}
}

// abandon closes what open has opened.
func (p *Cache) abandon() {
	for _, e := range append(p.aside, p.clients, p.peers.endpoint()) {
		if e.listener != nil {
			_ = e.listener.Close() // nobody has used it
		}
	}
	p.peers.close()
	if p.auth != nil {
		p.auth.Close()
	}
}

// Address returns where clients are served.
func (p *Cache) Address() net.Addr { return p.clients.listener.Addr() }

func (p *Cache) loaded() bool { return p.content.Load() != nil }

// Run serves until ctx ends, then drains. It is called once. Its probes answer while a large store is loaded. A store that
// cannot be used is a *store.ConfigError.
func (p *Cache) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// Metrics and the profiler show the end of the others.
	aside, stopAside := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAside()
	clients, hops, others := &group{failed: stop}, &group{failed: stop}, &group{failed: stop}
	for _, e := range p.aside {
		others.run(aside, e)
	}
	clients.run(ctx, p.clients)
	p.peers.run(hops)
	p.log.Info("Listening", "address", p.Address().String())

	loaded, err := p.load()
	if err == nil {
		p.peers.look(ctx)
		p.content.Store(loaded)
		p.log.Info("Ready")
		<-ctx.Done()
	}
	stop()
	left := make(chan struct{})
	p.peers.drain(left, p.config.Drain/2)
	err = errors.Join(err, clients.wait())
	close(left)
	err = errors.Join(err, hops.wait())
	if loaded != nil {
		err = errors.Join(err, loaded.close())
	}
	p.peers.close()
	if p.auth != nil {
		p.auth.Close()
	}
	stopAside()
	return errors.Join(err, others.wait())
}

// A group is some servers that run.
type group struct {
	failed func() // called if one of them ends with an error
	mu     sync.Mutex
	err    error
	wg     sync.WaitGroup
}

func (g *group) run(ctx context.Context, e endpoint) {
	g.wg.Go(func() {
		if err := e.server.Run(ctx, e.listener); err != nil {
			g.mu.Lock()
			g.err = errors.Join(g.err, err)
			g.mu.Unlock()
			g.failed()
		}
	})
}

func (g *group) wait() error {
	g.wg.Wait()
	return g.err
}
