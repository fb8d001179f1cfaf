// SPDX-License-Identifier: GPL-3.0-or-later

package relay

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/manifest"
	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/schema1"
)

// Get asks the members that own a manifest, tag or list, one after the other. It returns manifest.ErrUnknownToPeers if
// none of them has an answer. If a member responds that the upstream is silent, that is final if this replica considers
// the upstream down, too.
func (r *Relay) Get(ctx context.Context, q route.Request, accept string) (*manifest.Answer, error) {
	tried := map[string]bool{}
	for {
		name := firstUntried(r.members(q), tried)
		if name == "" {
			return nil, manifest.ErrUnknownToPeers
		}
		tried[name] = true
		begun := time.Now()
		a, err := r.answer(ctx, name, q, accept, false)
		switch {
		case err != nil && !isPeerError(err):
			return nil, err
		case err == nil && (!isOutage(a.Status) || a.Status == http.StatusGatewayTimeout && r.opts.Health.IsDown(begun)):
			return a, nil
		}
		r.opts.Log.Debug("A peer did not answer", "peer", name, "path", q.Path(), "error", err)
	}
}

// isPeerError reports whether an error only means that one member did not answer.
func isPeerError(err error) bool {
	_, ok := errors.AsType[*peer.Error](err)
	return ok || errors.Is(err, errSilent) || errors.Is(err, errDigest)
}

// hasDigest reports whether a manifest matches the requested digest, or the digest in the header. A mismatch that is
// found later would count as an error of the upstream, after which no other member is asked.
func hasDigest(q route.Request, header http.Header, body []byte) bool {
	if q.Kind != route.Manifest {
		return true
	}
	d := q.Digest
	if d == "" {
		d = digest.Digest(header.Get("Docker-Content-Digest"))
	}
	return d == "" || d.Validate() == nil && schema1.HasDigest(d, header.Get("Content-Type"), body)
}

// answer returns the answer of a member.
func (r *Relay) answer(ctx context.Context, name string, q route.Request, accept string, stored bool) (*manifest.Answer, error) {
	header := http.Header{}
	if accept != "" {
		header.Set("Accept", accept)
	}
	a, err := r.ask(ctx, name, URI(q), header, peer.CallOptions{StoreOnly: stored, Reserve: manifest.Reserve})
	if err != nil {
		return nil, err
	}
	defer a.Close()
	return r.readAnswer(a, q)
}

// readAnswer reads the answer of a member.
func (r *Relay) readAnswer(a *exchange, q route.Request) (*manifest.Answer, error) {
	age, stale := peer.Age(a.Header)
	if a.StatusCode != http.StatusOK {
		refused := errorOf(a.Response)
		return &manifest.Answer{
			Status: refused.Status, Code: refused.Code, Message: refused.Message, Header: refused.Header(), Age: age,
		}, nil
	}
	body, err := io.ReadAll(a.Body) // already in memory
	if err != nil {
		return nil, err
	}
	if !hasDigest(q, a.Header, body) {
		r.denySenders(q, []string{a.name}, errDigest)
		return nil, errDigest
	}
	return &manifest.Answer{
		Status: a.StatusCode, Header: a.Header, Body: body, Stale: stale, Age: age, Known: peer.Stored(a.Header),
	}, nil
}

// storedGetter gets content that other replicas have stored: for digests before it asks the upstream, and for tags and
// referrers if the upstream fails.
type storedGetter struct {
	relay *Relay
	next  manifest.Getter
}

// StoredGetter returns a Getter that gets stored content from other replicas, and everything else from next.
func (r *Relay) StoredGetter(next manifest.Getter) manifest.Getter { return &storedGetter{r, next} }

// Get gets an answer from the stores of other replicas or from next.
func (s *storedGetter) Get(ctx context.Context, q route.Request, accept string) (*manifest.Answer, error) {
	if q.Kind == route.Manifest && q.Digest != "" {
		if a := s.stored(ctx, q, accept); a != nil {
			return a, nil
		}
		return s.next.Get(ctx, q, accept)
	}
	if s.relay.opts.Health.WasDown() {
		s.relay.notifyOthers(q)
	}
	a, err := s.next.Get(ctx, q, accept)
	fails := err != nil || a.Status >= http.StatusInternalServerError || a.Status == http.StatusTooManyRequests
	if fails && q.Kind != route.Tags && ctx.Err() == nil {
		if old := s.stored(ctx, q, accept); old != nil {
			old.Stale = true
			return old, nil
		}
	}
	return a, err
}

// notifyOthers makes the replicas that would be asked next check whether the upstream is down, at the same time as this
// replica. It requests stored content, which does not wait for the upstream, and ignores the answer.
func (r *Relay) notifyOthers(q route.Request) {
	for _, name := range r.others(q) {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), storedPatience)
			defer cancel()
			if a, err := r.ask(ctx, name, URI(q), nil, peer.CallOptions{StoreOnly: true}); err == nil {
				a.Close()
			}
		}()
	}
}

// stored returns the answer from the store of another replica, or nil.
func (s *storedGetter) stored(ctx context.Context, q route.Request, accept string) *manifest.Answer {
	for _, name := range s.relay.others(q) {
		limited, cancel := context.WithTimeout(ctx, storedPatience)
		a, err := s.relay.answer(limited, name, q, accept, true)
		cancel()
		if err == nil && a.Status == http.StatusOK {
			return a
		}
		if ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

var _ manifest.Getter = (*Relay)(nil)
