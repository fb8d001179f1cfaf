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
	// stallShare is the stall limit of a relay, as a multiple of the stall limit of an upstream: each member that is
	// asked in turn has its own limit.
	stallShare = 3
	// recheckAfter is the minimum time since the upstream's last answer before this replica checks an upstream that
	// another replica reports as down.
	recheckAfter = time.Second
	// hopsPollInterval is the interval at which a draining replica checks whether hops are still running.
	hopsPollInterval = 20 * time.Millisecond
)

// peers holds the other replicas and the server for them. It is nil if this is the only replica.
type peers struct {
	*peer.Peers
	served endpoint
	ctx    context.Context
	stop   context.CancelFunc
	hops   atomic.Int64 // hops being served

	handovers *handovers
}

// openPeers opens the port for the other replicas, if any are configured.
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
	made := &peers{Peers: known, handovers: newHandovers()}
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

// endpoint returns the endpoint for the other replicas, or the zero value if there are none.
func (p *peers) endpoint() endpoint {
	if p == nil {
		return endpoint{}
	}
	return p.served
}

func (p *peers) close() {
	if p != nil {
		p.stop()
		p.handovers.stop()
		p.Close()
	}
}

// run serves the other replicas until finish.
func (p *peers) run(g *serverGroup) {
	if p != nil {
		g.run(p.ctx, p.served)
	}
}

// waitForMembers waits for the first lookup of the other replicas. A replica that believes it is alone would fetch
// everything.
func (p *peers) waitForMembers(ctx context.Context) {
	if p != nil {
		select {
		case <-p.LookedUp():
		case <-ctx.Done():
		}
	}
}

// drain tells the other replicas to ask only for content that this one has stored, and hands that over. The port closes
// when the clients have left, the handover has ended and no hop is running, or after atMost. Closing it earlier would
// make this replica look dead to the others.
func (p *peers) drain(g *serverGroup, handOver func(context.Context), clientsLeft <-chan struct{}, atMost time.Duration) {
	if p == nil {
		return
	}
	p.Drain()
	p.handovers.stop()
	handedOver := make(chan struct{})
	g.wg.Go(func() {
		defer close(handedOver)
		handOver(p.ctx)
	})
	left := func() bool { return isClosed(clientsLeft) && isClosed(handedOver) && p.hops.Load() == 0 }
	go func() {
		defer p.stop()
		limit := time.NewTimer(atMost)
		defer limit.Stop()
		ticker := time.NewTicker(hopsPollInterval)
		defer ticker.Stop()
		for !left() {
			select {
			case <-limit.C:
				return
			case <-ticker.C:
			}
		}
	}()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// serveHop answers a request from another replica, from the store or from the upstream.
func (c *Cache) serveHop(w http.ResponseWriter, r *http.Request) {
	hop, _ := peer.FromContext(r.Context())
	loaded := c.content.Load()
	if loaded == nil {
		server.WriteError(w, r, http.StatusServiceUnavailable, "", "this replica is starting")
		return
	}
	if c.serveHandover(w, r, hop, loaded) {
		return
	}
	q, refusal := loaded.table.Parse(r.URL)
	if hop.UpstreamDown && refusal == nil {
		loaded.checkUpstream(q.Upstream)
	}
	switch {
	case loaded.fills[r.URL.Query().Get("ns")] == nil: // the other replica has another configuration
		server.WriteError(w, r, http.StatusMisdirectedRequest, "NAME_UNKNOWN", "this replica does not serve that registry")
	case refusal != nil:
		server.WriteError(w, r, refusal.Status, refusal.Code, refusal.Message)
	case q.Kind == route.Blob && hop.StoreOnly:
		if !loaded.fills[q.Upstream].ServeStored(w, r, q) {
			server.WriteError(w, r, http.StatusNotFound, "BLOB_UNKNOWN", "this replica has not stored the blob")
			return
		}
		loaded.relays.stores[q.Upstream].SetRelay(q.Digest, true) // the requesting replica will have the blob, too
	case q.Kind == route.Blob:
		loaded.fills[q.Upstream].ServePeer(w, r, q)
		loaded.relays.stores[q.Upstream].SetRelay(q.Digest, false)
	default:
		loaded.manifests.ServePeer(w, r, q, hop.StoreOnly)
	}
}

// checkUpstream checks whether an upstream is down, as another replica reports, unless the upstream has answered
// recently.
func (c *content) checkUpstream(host string) {
	for _, u := range c.upstreams {
		if since := time.Now().Add(-recheckAfter); u.Name() == host {
			go u.IsDown(since)
		}
	}
}

// relays serves clients with content that other replicas own.
type relays struct {
	peers  *peer.Peers
	byHost map[string]*relay.Relay
	fills  map[string]*fill.Handler
	stores map[string]*store.Upstream
	// handedOver are the bytes received from replicas that were shutting down.
	handedOver map[string]*atomic.Int64
}

func newRelays(p *peers) *relays {
	if p == nil {
		return nil
	}
	return &relays{
		p.Peers, map[string]*relay.Relay{}, map[string]*fill.Handler{}, map[string]*store.Upstream{}, map[string]*atomic.Int64{},
	}
}

// add adds the relay of an upstream. It returns the handler for the blobs that this replica owns, and sends manifest
// requests through the relay.
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
	o.Abandoned = 0 // the owner's fill continues
	r.byHost[host], r.fills[host], r.stores[host], r.handedOver[host] = made, fill.New(o), o.Store, new(atomic.Int64)
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
	const states = "Number of replicas known to this one, including itself, by state."
	gauge("registry_cache_peers", states, prometheus.Labels{"state": "in"}, func(s peer.Stats) int { return s.Members - s.Suspect - s.Out })
	gauge("registry_cache_peers", states, prometheus.Labels{"state": "suspect"}, func(s peer.Stats) int { return s.Suspect })
	gauge("registry_cache_peers", states, prometheus.Labels{"state": "out"}, func(s peer.Stats) int { return s.Out })
	first := c.peers.Stats()
	for result := range first.Hops {
		counter("registry_cache_hops_total", "Number of requests to other replicas, by result.", prometheus.Labels{"result": string(result)},
			func(s peer.Stats) uint64 { return s.Hops[result] })
	}
	for reason := range first.Refusals {
		counter("registry_cache_hops_refused_total", "Number of requests refused at the port for other replicas.", prometheus.Labels{"reason": string(reason)},
			func(s peer.Stats) uint64 { return s.Refusals[reason] })
	}
	counter("registry_cache_hops_received_total", "Number of requests from other replicas.", nil, func(s peer.Stats) uint64 { return s.Received })
	counter("registry_cache_hops_cut_total", "Number of transfers from other replicas that ended early.", nil, func(s peer.Stats) uint64 { return s.Cut })
	counter("registry_cache_peer_probes_total", "Number of probes sent to silent replicas.", nil, func(s peer.Stats) uint64 { return s.Probes })
	counter("registry_cache_peer_lookup_failures_total", "Number of failed lookups of the replicas.", nil, func(s peer.Stats) uint64 { return s.LookupFailures })
	counter("registry_cache_peer_secret_failures_total", "Number of versions of the replicas' shared secret that could not be loaded.", nil,
		func(s peer.Stats) uint64 { return s.SecretFailures })
	for host, r := range m.relays.byHost {
		labels, relayed := prometheus.Labels{"upstream": host}, m.relays.fills[host]
		c.metrics.RegisterCounter("registry_cache_relayed_bytes_total", "Bytes of blobs received from other replicas.", labels,
			func() float64 { return float64(r.Bytes()) })
		c.metrics.RegisterCounter("registry_cache_handed_over_bytes_total", "Bytes of content copied from replicas that were shutting down.", labels,
			func() float64 { return float64(m.relays.handedOver[host].Load()) })
		c.metrics.RegisterGauge("registry_cache_relays", "Number of blob transfers in progress from other replicas.", labels,
			func() float64 { return float64(relayed.Stats().Running) })
	}
}
