// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/manifest"
	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/relay"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/server"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

// A handover copies the content of a replica that shuts down to the replicas that own it next. The leaving replica
// asks each of them with leavingURI. Each asks back with storedURI for a list, and copies what it lacks from the store
// of the leaving replica. The answer to leavingURI says what was copied. Older replicas refuse both.
const (
	leavingURI = "/registry-cache/leaving"
	storedURI  = "/registry-cache/stored"
)

const (
	// maxCopies is the maximum number of concurrent copies by this replica.
	maxCopies = 2
	// maxReceivers is the maximum number of replicas that copy from a leaving one at the same time.
	maxReceivers = 4
	// maxOffers is the maximum number of entries of a list. With the longest names, they fit into an answer.
	maxOffers = 20000
	// listTimeout is how long a leaving replica may take to answer with its list.
	listTimeout = 10 * time.Second
)

// An offer is content that a leaving replica has stored.
type offer struct {
	URI  string `json:"uri"`
	Size int64  `json:"size"`
	Age  int64  `json:"age"`  // milliseconds since the last use
	Kept bool   `json:"kept"` // the store of the leaving replica outlives it
}

// A handoverResult counts the offers of one or several handovers.
type handoverResult struct {
	Copied int   `json:"copied"`
	Bytes  int64 `json:"bytes"`   // of Copied
	Known  int   `json:"known"`   // already stored
	NoRoom int   `json:"no_room"` // only content that is worth more could make room
	Failed int   `json:"failed"`
}

func (h *handoverResult) add(o handoverResult) {
	h.Copied += o.Copied
	h.Bytes += o.Bytes
	h.Known += o.Known
	h.NoRoom += o.NoRoom
	h.Failed += o.Failed
}

// attributes returns the counts for the log.
func (h *handoverResult) attributes() []any {
	return []any{"copied", h.Copied, "bytes", h.Bytes, "known", h.Known, "no_room", h.NoRoom, "failed", h.Failed}
}

// handovers is the state of the handovers from and to this replica.
type handovers struct {
	ctx    context.Context // done when this replica shuts down: it receives nothing any more
	stop   context.CancelFunc
	copies chan struct{} // limits the copies

	mu     sync.Mutex
	offers map[string][]offer // of this replica, by the member that should copy them
}

func newHandovers() *handovers {
	h := &handovers{copies: make(chan struct{}, maxCopies)}
	h.ctx, h.stop = context.WithCancel(context.Background())
	return h
}

// handOver lets the other replicas copy what this one has stored, until ctx is done. If one of them does not copy, the
// next owners do.
func (c *Cache) handOver(ctx context.Context) {
	loaded := c.content.Load()
	if loaded == nil {
		return
	}
	loaded.store.FreezeUse()
	begun := time.Now()
	var total handoverResult
	refused := map[string]bool{}
	for again := true; again && ctx.Err() == nil; {
		offers := loaded.offers(refused)
		c.peers.handovers.setOffers(offers)
		var mu sync.Mutex
		var asked sync.WaitGroup
		again = false
		receivers := make(chan struct{}, maxReceivers)
		for name := range offers {
			receivers <- struct{}{}
			asked.Go(func() {
				defer func() { <-receivers }()
				got, err := c.requestCopies(ctx, name)
				mu.Lock()
				defer mu.Unlock()
				if total.add(got); err != nil {
					again, refused[name] = true, true
					c.log.Info("A peer does not copy the content of this replica", "peer", name, "error", err)
				}
			})
		}
		asked.Wait()
	}
	words := append(total.attributes(), "seconds", time.Since(begun).Seconds(), "complete", ctx.Err() == nil)
	c.log.Info("Handed over stored content to other replicas", words...)
}

// offers returns what the other replicas should copy, by name, the most recently used content first. Some of them are
// left out.
func (c *content) offers(others map[string]bool) map[string][]offer {
	now := time.Now()
	made := map[string][]offer{}
	for host, part := range c.relays.stores {
		of := c.relays.byHost[host]
		seen := map[string]bool{} // by key: repositories may share a blob
		for _, held := range part.Held() {
			q := requestFor(host, held)
			if name := of.Heir(q, others); name != "" && !seen[of.Key(q)] {
				seen[of.Key(q)] = true
				made[name] = append(made[name], offer{relay.URI(q), held.Size, max(0, now.Sub(held.Used).Milliseconds()), c.store.Outlived()})
			}
		}
	}
	for name, offers := range made {
		slices.SortStableFunc(offers, func(a, b offer) int { return cmp.Compare(a.Age, b.Age) })
		made[name] = offers[:min(len(offers), maxOffers)]
	}
	return made
}

// requestFor returns the request for stored content.
func requestFor(host string, held store.Held) route.Request {
	q := route.Request{Kind: route.Manifest, Upstream: host, Repository: held.Repository, Digest: held.Digest, Tag: held.Tag}
	if held.Layer {
		q.Kind = route.Blob
	}
	return q
}

func (h *handovers) setOffers(offers map[string][]offer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.offers = offers
}

// requestCopies asks a member to copy what this replica offers, and waits until it has.
func (c *Cache) requestCopies(ctx context.Context, name string) (got handoverResult, err error) {
	err = c.peers.getJSON(ctx, name, leavingURI, peer.CallOptions{}, &got)
	return got, err
}

// getJSON decodes a member's answer.
func (p *peers) getJSON(ctx context.Context, name, uri string, call peer.CallOptions, into any) error {
	resp, err := p.Do(ctx, name, http.MethodGet, uri, nil, call)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// serveHandover answers a request of a handover, and reports whether it is one.
func (c *Cache) serveHandover(w http.ResponseWriter, r *http.Request, hop peer.Hop, loaded *content) bool {
	h := c.peers.handovers
	switch {
	case r.URL.Path == storedURI && hop.StoreOnly:
		h.mu.Lock()
		offers := h.offers[hop.From]
		h.mu.Unlock()
		writeJSON(w, r, offers)
	case r.URL.Path == leavingURI && !hop.StoreOnly:
		// The copies are not part of this hop, which must not cause another one: they ask only for stored content, and
		// the member answers without waiting for anything.
		ctx, cancel := context.WithCancel(h.ctx)
		defer cancel()
		defer context.AfterFunc(r.Context(), cancel)()
		got, err := c.receive(ctx, hop.From, loaded)
		if err != nil {
			server.WriteError(w, r, http.StatusServiceUnavailable, "", err.Error())
			return true
		}
		writeJSON(w, r, got)
	default:
		return false
	}
	return true
}

func writeJSON(w http.ResponseWriter, r *http.Request, value any) {
	body, err := json.Marshal(value)
	if err != nil { // never: the types have no such fields
		server.WriteError(w, r, http.StatusInternalServerError, "", err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // fails only if the other replica has disconnected
}

// receive copies what a leaving member offers, in its order. It returns an error if it is interrupted.
func (c *Cache) receive(ctx context.Context, from string, loaded *content) (handoverResult, error) {
	begun := time.Now()
	limited, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var offers []offer
	if err := c.peers.getJSON(limited, from, storedURI, peer.CallOptions{StoreOnly: true}, &offers); err != nil {
		return handoverResult{}, err
	}
	var total handoverResult
	var mu sync.Mutex
	var running sync.WaitGroup
	begin := func() bool {
		select {
		case c.peers.handovers.copies <- struct{}{}:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for _, o := range offers {
		q, ok := loaded.parseOffer(o)
		if ok && loaded.holds(ctx, q, !o.Kept) {
			mu.Lock()
			total.Known++
			mu.Unlock()
			continue
		}
		if c.peers.State(from) == peer.Out || !begin() {
			break
		}
		running.Go(func() {
			defer func() { <-c.peers.handovers.copies }()
			err := errOffer
			if ok {
				err = loaded.copyFrom(ctx, from, q, o, begun)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				total.Copied++
				total.Bytes += o.Size
			case errors.Is(err, relay.ErrNoRoom):
				total.NoRoom++
			default:
				total.Failed++
				c.log.Debug("Cannot copy stored content of a peer", "peer", from, "uri", o.URI, "error", err)
			}
		})
	}
	running.Wait()
	complete := ctx.Err() == nil && total.Copied+total.Known+total.NoRoom+total.Failed == len(offers)
	words := append(total.attributes(), "peer", from, "seconds", time.Since(begun).Seconds(), "complete", complete)
	c.log.Info("Copied stored content of a peer that shuts down", words...)
	if !complete {
		return total, errInterrupted
	}
	return total, nil
}

// parseOffer returns the request for an offer.
func (c *content) parseOffer(o offer) (route.Request, bool) {
	at, err := url.ParseRequestURI(o.URI)
	if err != nil || o.Size < 0 || o.Age < 0 || o.Age > math.MaxInt64/int64(time.Millisecond) {
		return route.Request{}, false
	}
	q, refusal := c.table.Parse(at)
	return q, refusal == nil && (q.Kind == route.Blob || q.Kind == route.Manifest)
}

// holds reports whether this replica has stored content, without marking it as used. With sole, no other replica has it
// any more.
func (c *content) holds(ctx context.Context, q route.Request, sole bool) bool {
	if q.Kind == route.Blob {
		return c.relays.byHost[q.Upstream].Holds(q, sole)
	}
	return c.manifests.Holds(ctx, q)
}

// copyFrom copies content from the store of a member, but not at the expense of content that was used more recently.
func (c *content) copyFrom(ctx context.Context, name string, q route.Request, o offer, now time.Time) error {
	used := now.Add(-time.Duration(o.Age) * time.Millisecond)
	of := c.relays.byHost[q.Upstream]
	var err error
	switch {
	case q.Kind == route.Blob:
		err = of.CopyBlob(ctx, name, q, o.Size, used, !o.Kept)
	case !c.relays.stores[q.Upstream].HasRoom(o.Size, used, o.Kept):
		err = relay.ErrNoRoom
	default:
		err = c.manifests.Adopt(ctx, q, func(ctx context.Context) (*manifest.Answer, error) { return of.GetStored(ctx, name, q) })
	}
	if err == nil {
		c.relays.handedOver[q.Upstream].Add(o.Size)
	}
	return err
}

var (
	errOffer       = errors.New("the offer is not valid")
	errInterrupted = errors.New("the handover was interrupted")
)
