// SPDX-License-Identifier: GPL-3.0-or-later

package relay

import (
	"context"
	"net/http"
	"slices"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/fill"
	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

// storedFetcher fetches blobs from the stores of other replicas.
type storedFetcher struct {
	relay *Relay
	next  fill.Fetcher
}

// Stored returns a Fetcher that fetches a blob from the store of another replica, or else from next.
func (r *Relay) Stored(next fill.Fetcher) fill.Fetcher { return &storedFetcher{r, next} }

// Fetch fetches a blob from another replica, and any missing part from next.
func (s *storedFetcher) Fetch(ctx context.Context, q route.Request, g *store.Growing) error {
	r := s.relay
	name, a := r.firstStored(ctx, q, nil, peer.CallOptions{StoreOnly: true})
	if a == nil {
		return s.next.Fetch(ctx, q, g)
	}
	a.silent = storedSilence
	stop := context.AfterFunc(ctx, func() { g.Finish(context.Cause(ctx)) }) // wakes a writer that is waiting for slow readers
	defer stop()
	err := r.copyBody(ctx, a, g)
	a.Close()
	state, cause := g.State()
	switch {
	case state == store.Complete:
		r.keep(q, g, false)
		return nil
	case isWrong(cause):
		r.denySenders(q, []string{name}, cause)
		return fill.ErrAgain
	case state == store.Failed:
		return cause
	}
	r.opts.Log.Info("A peer did not send a stored blob", "peer", name, "digest", q.Digest, "offset", g.Written(), "error", err)
	return s.next.Fetch(ctx, q, g)
}

// firstStored asks several other replicas for a stored blob at the same time. It returns the first one that has it, and
// the response, or nil if none responds in time.
func (r *Relay) firstStored(ctx context.Context, q route.Request, header http.Header, call peer.CallOptions) (string, *exchange) {
	names := r.others(q)
	if len(names) == 0 {
		return "", nil
	}
	type result struct {
		name string
		ask  *exchange
	}
	results := make(chan result, len(names))
	cancels := make([]context.CancelFunc, len(names))
	for i, name := range names {
		var each context.Context
		each, cancels[i] = context.WithCancel(ctx)
		go func() {
			a, err := r.ask(each, name, URI(q), header, call)
			if err == nil && a.StatusCode != http.StatusOK {
				a.Close()
				a = nil
			}
			results <- result{name, a}
		}()
	}
	timer := time.NewTimer(storedPatience)
	defer timer.Stop()
	var won result
	got := 0
	for won.ask == nil && got < len(names) {
		select {
		case won = <-results:
			got++
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		break
	}
	for i, name := range names {
		if won.ask == nil || name != won.name {
			cancels[i]()
		}
	}
	if left := len(names) - got; left > 0 {
		go func() {
			for range left {
				if late := <-results; late.ask != nil {
					late.ask.Close()
				}
			}
		}()
	}
	if won.ask != nil {
		context.AfterFunc(won.ask.ctx, cancels[slices.Index(names, won.name)])
	}
	return won.name, won.ask
}
