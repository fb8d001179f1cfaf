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
	// lookAfter is how long after an answer of the upstream that another replica finds out this one looks, too.
	lookAfter = time.Second
	// hopsLook is how often it is looked whether hops run, when the program ends.
	hopsLook = 20 * time.Millisecond
)

// peers are the other replicas, and the port for them. Nil serves alone.
type peers struct {
	*peer.Peers
	served endpoint
	ctx    context.Context
	stop   context.CancelFunc
	hops   atomic.Int64 // that are served now
}

// openPeers listens for other replicas, if there are any.
func (p *Cache) openPeers(limits server.Limits) (*peers, error) {
	c := p.config.Peers
	if c == nil {
		return nil, nil
	}
	o := peer.Options{Self: c.Name, Service: c.Service, Secret: c.Secret, Log: p.log}
	for _, m := range c.Members {
		o.Members = append(o.Members, peer.Member{Name: m.Name, Address: m.Address})
	}
	known, err := peer.New(o)
	if err != nil {
		return nil, fmt.Errorf("peers.secret: %w", err) // which names the file and the fix
	}
	made := &peers{Peers: known}
	made.ctx, made.stop = context.WithCancel(context.Background())
	hops := known.Receive(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		server.Authenticated(r.Context())
		made.hops.Add(1)
		defer made.hops.Add(-1)
		p.serveHop(w, r)
	}))
	made.served.server = server.NewPeers(hops, limits, p.config.Drain/2, p.log, p.metrics.Observe)
	if made.served.listener, err = listen("peers.listen", c.Listen); err != nil {
		made.close()
		return nil, err
	}
	return made, nil
}

func (s *peers) endpoint() endpoint {
	if s == nil {
		return endpoint{}
	}
	return s.served
}

func (s *peers) close() {
	if s != nil {
		s.stop()
		s.Close()
	}
}

// run serves the other replicas until finish.
func (s *peers) run(g *group) {
	if s != nil {
		g.run(s.ctx, s.served)
	}
}

// look waits until the other replicas are known: one that believes to be alone would fetch everything.
func (s *peers) look(ctx context.Context) {
	if s != nil {
		select {
		case <-s.Looked():
		case <-ctx.Done():
		}
	}
}

// drain lets the others ask only for what this replica has. The port ends when the clients have left and no hop runs, or after
// a time: until then it is open, since the others would take this replica for dead.
func (s *peers) drain(clientsLeft <-chan struct{}, atMost time.Duration) {
	if s == nil {
		return
	}
	s.Drain()
	go func() {
		defer s.stop()
		limit := time.NewTimer(atMost)
		defer limit.Stop()
		ticker := time.NewTicker(hopsLook)
		defer ticker.Stop()
		for {
			select {
			case <-limit.C:
				return
			case <-ticker.C:
			}
			select {
			case <-clientsLeft:
				if s.hops.Load() == 0 {
					return
				}
			default:
			}
		}
	}()
}

// serveHop answers another replica: with what this one has, or what the upstream says.
func (p *Cache) serveHop(w http.ResponseWriter, r *http.Request) {
	hop, _ := peer.From(r.Context())
	c := p.content.Load()
	if c == nil {
		server.WriteError(w, r, http.StatusServiceUnavailable, "", "this replica is starting")
		return
	}
	q, refusal := c.table.Parse(r.URL)
	if hop.Out && refusal == nil {
		c.look(q.Upstream)
	}
	switch {
	case c.fills[r.URL.Query().Get("ns")] == nil: // its configuration is older or newer
		server.WriteError(w, r, http.StatusMisdirectedRequest, "NAME_UNKNOWN", "this replica does not serve that registry")
	case refusal != nil:
		server.WriteError(w, r, refusal.Status, refusal.Code, refusal.Message)
	case q.Kind == route.Blob && hop.StoreOnly:
		if !c.fills[q.Upstream].ServeStored(w, r, q) {
			server.WriteError(w, r, http.StatusNotFound, "BLOB_UNKNOWN", "this replica does not have it")
			return
		}
		c.relays.stores[q.Upstream].SetRelay(q.Digest, true) // the one that asks has it, too
	case q.Kind == route.Blob:
		c.fills[q.Upstream].ServePeer(w, r, q)
		c.relays.stores[q.Upstream].SetRelay(q.Digest, false)
	default:
		c.manifests.ServePeer(w, r, q, hop.StoreOnly)
	}
}

// look has this replica look whether an upstream is out, as another one finds, unless it has answered a moment ago.
func (m *content) look(host string) {
	for _, u := range m.upstreams {
		if since := time.Now().Add(-lookAfter); u.Name() == host {
			go u.Out(since)
		}
	}
}

// relays are what clients are served from that another replica owns.
type relays struct {
	peers  *peer.Peers
	of     map[string]*relay.Relay
	fills  map[string]*fill.Handler
	stores map[string]*store.Upstream
}

func newRelays(p *peers) *relays {
	if p == nil {
		return nil
	}
	return &relays{p.Peers, map[string]*relay.Relay{}, map[string]*fill.Handler{}, map[string]*store.Upstream{}}
}

// add makes what relays an upstream's content. It returns the handler of what this replica owns, and changes how manifests are
// asked for.
func (s *relays) add(host string, health relay.Health, o fill.Options, asks *manifest.Upstream) *fill.Handler {
	made := relay.New(relay.Options{
		Peers: s.peers, Health: health, Upstream: host, Share: o.Share, Store: o.Store, Log: o.Log.With("component", "relay", "upstream", host),
	})
	upstream := o.Fetcher
	o.Fetcher = made.Stored(upstream)
	own := fill.New(o)
	made.SetOwn(own)
	o.Fetcher, o.Next, o.Pass = made, own, made.Owned
	o.Stall *= stallShare
	o.Abandoned = 0 // the owner's fill goes on
	s.of[host], s.fills[host], s.stores[host] = made, fill.New(o), o.Store
	asks.Asker, asks.Relay, asks.Owned = made.StoredAsker(asks.Asker), made, made.Owned
	return own
}

func (s *relays) close() {
	if s != nil {
		for _, f := range s.fills {
			f.Close()
		}
	}
}

// blobs returns what serves the blobs of an upstream to clients.
func (m *content) blobs(host string) *fill.Handler {
	if m.relays == nil {
		return m.fills[host]
	}
	return m.relays.fills[host]
}

// showPeers makes metrics of what is known of other replicas.
func (p *Cache) showPeers(m *content) {
	if p.peers == nil {
		return
	}
	gauge := func(name, help string, labels prometheus.Labels, value func(peer.Stats) int) {
		p.metrics.Gauge(name, help, labels, func() float64 { return float64(value(p.peers.Stats())) })
	}
	counter := func(name, help string, labels prometheus.Labels, value func(peer.Stats) uint64) {
		p.metrics.Counter(name, help, labels, func() float64 { return float64(value(p.peers.Stats())) })
	}
	const states = "Replicas that this one knows, itself included, by whether they answer."
	gauge("registry_cache_peers", states, prometheus.Labels{"state": "in"}, func(s peer.Stats) int { return s.Members - s.Suspect - s.Out })
	gauge("registry_cache_peers", states, prometheus.Labels{"state": "suspect"}, func(s peer.Stats) int { return s.Suspect })
	gauge("registry_cache_peers", states, prometheus.Labels{"state": "out"}, func(s peer.Stats) int { return s.Out })
	first := p.peers.Stats()
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
	for host, r := range m.relays.of {
		labels, relayed := prometheus.Labels{"upstream": host}, m.relays.fills[host]
		p.metrics.Counter("registry_cache_relayed_bytes_total", "Bytes of blobs that came from other replicas.", labels,
			func() float64 { return float64(r.Bytes()) })
		p.metrics.Gauge("registry_cache_relays", "Transfers of blobs from other replicas that run.", labels,
			func() float64 { return float64(relayed.Stats().Running) })
	}
}
