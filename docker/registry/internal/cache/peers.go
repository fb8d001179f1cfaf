// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pullthrough.registry_cache/docker/registry/internal/fill"
	"pullthrough.registry_cache/docker/registry/internal/manifest"
	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/relay"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/server"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

const (
	// stallShare is how many times the stall limit of one upstream a relay may be silent: each member that it asks has its own.
	stallShare = 3
	// recheckAfter is how long after an answer of the upstream that another replica finds out this one looks, too.
	recheckAfter = time.Second
	// hopsPollInterval is how often it is looked whether hops run, when the program ends.
	hopsPollInterval = 20 * time.Millisecond
)

// peers are the other replicas and the port for them. A nil *peers is a replica that serves alone.
type peers struct {
	*peer.Peers
	served endpoint
	ctx    context.Context
	stop   context.CancelFunc
	hops   atomic.Int64 // that are served now
}

// openPeers listens for the other replicas, if any are configured.
func (c *Cache) openPeers(limits server.Limits) (*peers, error) {
	cfg := c.config.Peers
	if cfg == nil {
		return nil, nil
	}
	o := peer.Options{Self: cfg.Name, Service: cfg.Service, Secret: cfg.Secret, Log: c.log}
	for _, m := range cfg.Members {
		o.Members = append(o.Members, peer.Member{Name: m.Name, Address: m.Address})
	}
	known, err := peer.New(o)
	if err != nil {
		return nil, fmt.Errorf("peers.secret: %w", err) // which names the file and the fix
	}
	made := &peers{Peers: known}
	made.ctx, made.stop = context.WithCancel(context.Background())
	hops := known.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		server.Authenticated(r.Context())
		made.hops.Add(1)
		defer made.hops.Add(-1)
		c.serveHop(w, r)
	}))
	made.served.server = server.NewPeers(hops, limits, c.config.Drain/2, c.log, c.metrics.CountEvent)
	if made.served.listener, err = listen("peers.listen", cfg.Listen); err != nil {
		made.close()
		return nil, err
	}
	return made, nil
}

// endpoint returns the endpoint for the other replicas, the zero value if there are none.
func (p *peers) endpoint() endpoint {
	if p == nil {
		return endpoint{}
	}
	return p.served
}

func (p *peers) close() {
	if p != nil {
		p.stop()
		p.Close()
	}
}

// run serves the other replicas until finish.
func (p *peers) run(g *serverGroup) {
	if p != nil {
		g.run(p.ctx, p.served)
	}
}

// waitForMembers waits until the other replicas are known: a replica that thinks it is alone would fetch everything.
func (p *peers) waitForMembers(ctx context.Context) {
	if p != nil {
		select {
		case <-p.LookedUp():
		case <-ctx.Done():
		}
	}
}

// drain makes the others ask only for what this replica has. The port closes when the clients have left and no hop runs, or
// after a time limit. Until then it stays open, since the others would otherwise consider this replica dead.
func (p *peers) drain(clientsLeft <-chan struct{}, atMost time.Duration) {
	if p == nil {
		return
	}
	p.Drain()
	go func() {
		defer p.stop()
		limit := time.NewTimer(atMost)
		defer limit.Stop()
		ticker := time.NewTicker(hopsPollInterval)
		defer ticker.Stop()
		for {
			select {
			case <-limit.C:
				return
			case <-ticker.C:
			}
			select {
			case <-clientsLeft:
				if p.hops.Load() == 0 {
					return
				}
			default:
			}
		}
	}()
}

// serveHop answers a request of another replica, from the store or from the upstream.
func (c *Cache) serveHop(w http.ResponseWriter, r *http.Request) {
	hop, _ := peer.FromContext(r.Context())
	loaded := c.content.Load()
	if loaded == nil {
		server.WriteError(w, r, http.StatusServiceUnavailable, "", "this replica is starting")
		return
	}
	q, refusal := loaded.table.Parse(r.URL)
	if hop.Out && refusal == nil {
		loaded.checkUpstream(q.Upstream)
	}
	switch {
	case loaded.fills[r.URL.Query().Get("ns")] == nil: // its configuration is older or newer
		server.WriteError(w, r, http.StatusMisdirectedRequest, "NAME_UNKNOWN", "this replica does not serve that registry")
	case refusal != nil:
		server.WriteError(w, r, refusal.Status, refusal.Code, refusal.Message)
	case q.Kind == route.Blob && hop.StoreOnly:
		if !loaded.fills[q.Upstream].ServeStored(w, r, q) {
			server.WriteError(w, r, http.StatusNotFound, "BLOB_UNKNOWN", "this replica does not have it")
			return
		}
		loaded.relays.stores[q.Upstream].SetRelay(q.Digest, true) // the one that asks has it, too
	case q.Kind == route.Blob:
		loaded.fills[q.Upstream].ServePeer(w, r, q)
		loaded.relays.stores[q.Upstream].SetRelay(q.Digest, false)
	default:
		loaded.manifests.ServePeer(w, r, q, hop.StoreOnly)
	}
}

// checkUpstream checks whether an upstream is out, as another replica reports, unless the upstream has answered a moment ago.
func (c *content) checkUpstream(host string) {
	for _, u := range c.upstreams {
		if since := time.Now().Add(-recheckAfter); u.Name() == host {
			go u.IsOut(since)
		}
	}
}

// relays serve clients with content that other replicas own.
type relays struct {
	peers  *peer.Peers
	byHost map[string]*relay.Relay
	fills  map[string]*fill.Handler
	stores map[string]*store.Upstream
}

func newRelays(p *peers) *relays {
	if p == nil {
		return nil
	}
	return &relays{p.Peers, map[string]*relay.Relay{}, map[string]*fill.Handler{}, map[string]*store.Upstream{}}
}

// add adds the relay of an upstream. It returns the handler of what this replica owns, and makes manifests go through the relay.
func (r *relays) add(host string, health relay.Health, o fill.Options, asks *manifest.Upstream) *fill.Handler {
	made := relay.New(relay.Options{
		Peers: r.peers, Health: health, Upstream: host, Share: o.Share, Store: o.Store, Log: o.Log.With("component", "relay", "upstream", host),
	})
	upstream := o.Fetcher
	o.Fetcher = made.Stored(upstream)
	own := fill.New(o)
	made.SetOwn(own)
	o.Fetcher, o.Next, o.Pass = made, own, made.Owned
	o.Stall *= stallShare
	o.Abandoned = 0 // the owner's fill goes on
	r.byHost[host], r.fills[host], r.stores[host] = made, fill.New(o), o.Store
	asks.Getter, asks.Relay, asks.Owned = made.StoredGetter(asks.Getter), made, made.Owned
	return own
}

func (r *relays) close() {
	if r != nil {
		for _, f := range r.fills {
			f.Close()
		}
	}
}

// blobHandler returns the handler that serves the blobs of an upstream to clients.
func (c *content) blobHandler(host string) *fill.Handler {
	if c.relays == nil {
		return c.fills[host]
	}
	return c.relays.fills[host]
}

// registerPeerMetrics registers the metrics of the other replicas.
func (c *Cache) registerPeerMetrics(m *content) {
	if c.peers == nil {
		return
	}
	gauge := func(name, help string, labels prometheus.Labels, value func(peer.Stats) int) {
		c.metrics.RegisterGauge(name, help, labels, func() float64 { return float64(value(c.peers.Stats())) })
	}
	counter := func(name, help string, labels prometheus.Labels, value func(peer.Stats) uint64) {
		c.metrics.RegisterCounter(name, help, labels, func() float64 { return float64(value(c.peers.Stats())) })
	}
	const states = "Replicas that this one knows, itself included, by whether they answer."
	gauge("registry_cache_peers", states, prometheus.Labels{"state": "in"}, func(s peer.Stats) int { return s.Members - s.Suspect - s.Out })
	gauge("registry_cache_peers", states, prometheus.Labels{"state": "suspect"}, func(s peer.Stats) int { return s.Suspect })
	gauge("registry_cache_peers", states, prometheus.Labels{"state": "out"}, func(s peer.Stats) int { return s.Out })
	first := c.peers.Stats()
	for result := range first.Hops {
		counter("registry_cache_hops_total", "Requests to other replicas, by what became of them.", prometheus.Labels{"result": string(result)},
			func(s peer.Stats) uint64 { return s.Hops[result] })
	}
	for reason := range first.Refusals {
		counter("registry_cache_hops_refused_total", "Requests at the port for other replicas that were refused.", prometheus.Labels{"reason": string(reason)},
			func(s peer.Stats) uint64 { return s.Refusals[reason] })
	}
	counter("registry_cache_hops_received_total", "Requests of other replicas.", nil, func(s peer.Stats) uint64 { return s.Received })
	counter("registry_cache_hops_cut_total", "Transfers from other replicas that ended early.", nil, func(s peer.Stats) uint64 { return s.Cut })
	counter("registry_cache_peer_probes_total", "Probes of replicas that were silent.", nil, func(s peer.Stats) uint64 { return s.Probes })
	counter("registry_cache_peer_lookup_failures_total", "Lookups of the replicas that failed.", nil, func(s peer.Stats) uint64 { return s.LookupFailures })
	counter("registry_cache_peer_secret_failures_total", "Versions of the replicas' secret that were not taken.", nil,
		func(s peer.Stats) uint64 { return s.SecretFailures })
	for host, r := range m.relays.byHost {
		labels, relayed := prometheus.Labels{"upstream": host}, m.relays.fills[host]
		c.metrics.RegisterCounter("registry_cache_relayed_bytes_total", "Bytes of blobs that came from other replicas.", labels,
			func() float64 { return float64(r.Bytes()) })
		c.metrics.RegisterGauge("registry_cache_relays", "Transfers of blobs from other replicas that run.", labels,
			func() float64 { return float64(relayed.Stats().Running) })
	}
}
