// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"

	"pullthrough.registry_cache/docker/registry/internal/auth"
	"pullthrough.registry_cache/docker/registry/internal/manifest"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/server"
)

// Kinds and results of metrics that no other package names.
const (
	kindTag   = "tag"
	kindOther = "other"

	resultHit       = "hit"
	resultAbsent    = "absent"
	resultError     = "error"
	resultChallenge = "challenge" // no credential: how containerd begins
	resultDenied    = "denied"    // a wrong one
	resultThrottled = "throttled" // too many wait for their check
)

// serve answers a request whose credential is good.
func (p *Cache) serve(w http.ResponseWriter, r *http.Request) {
	c := p.content.Load()
	if c == nil {
		server.Describe(r.Context(), server.Description{Kind: kindOther, Result: resultError})
		server.WriteError(w, r, http.StatusServiceUnavailable, "", "this replica is starting")
		return
	}
	q, refusal := c.table.Parse(r.URL)
	description := server.Description{Upstream: q.Upstream, Kind: kind(q), Result: resultError}
	server.Describe(r.Context(), description)
	switch {
	case refusal != nil:
		if refusal.Status == http.StatusNotFound {
			server.SetResult(r.Context(), resultAbsent)
		}
		server.WriteError(w, r, refusal.Status, refusal.Code, refusal.Message)
	case q.Kind == route.Ping:
		server.SetResult(r.Context(), resultHit)
		pong(w, r)
	case q.Kind == route.Blob:
		c.blobs(q.Upstream).Serve(w, r, q)
	default:
		result := c.manifests.Serve(w, r, q)
		if result != manifest.Left {
			server.SetResult(r.Context(), string(result))
		}
	}
}

// pong answers how clients find out whether this is a registry, and whether their credential is good.
func pong(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", "2")
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, "{}") // the client has gone: nobody is left to hear of it
	}
}

// kind returns how metrics call what a request asks for.
func kind(q route.Request) string {
	switch {
	case q.Kind == route.Blob:
		return "blob"
	case q.Kind == route.Manifest && q.Tag != "":
		return kindTag
	case q.Kind == route.Manifest:
		return "manifest"
	}
	return kindOther
}

// record counts a request.
func (p *Cache) record(r *http.Request, o server.Outcome) {
	d := o.Description
	if d.Kind == "" { // the server has refused it
		d = p.refused(r, o.Status)
	}
	p.metrics.Request(d, o)
}

// refused describes a request that did not reach serve.
func (p *Cache) refused(r *http.Request, status int) server.Description {
	d := server.Description{Kind: kindOther, Result: resultError}
	if c := p.content.Load(); c != nil {
		if q, refusal := c.table.Parse(r.URL); refusal == nil {
			d.Upstream, d.Kind = q.Upstream, kind(q)
		}
	}
	switch {
	case status == http.StatusUnauthorized && r.Header.Get("Authorization") == "":
		d.Result = resultChallenge
	case status == http.StatusUnauthorized:
		d.Result = resultDenied
	case status == http.StatusTooManyRequests:
		d.Result = resultThrottled
	}
	return d
}

// everybody lets everybody in.
type everybody struct{}

// Check finds every credential good.
func (everybody) Check(context.Context, string) server.Decision {
	return server.Decision{Verdict: server.Good}
}

// users lets in those of an htpasswd file.
type users struct{ auth *auth.Checker }

// Check decides about a credential. What is neither good nor to be tried later is bad.
func (u users) Check(ctx context.Context, authorization string) server.Decision {
	var source netip.Addr
	if address, ok := server.Remote(ctx).(*net.TCPAddr); ok {
		source = address.AddrPort().Addr().Unmap()
	}
	switch result := u.auth.Check(ctx, authorization, source); result.Verdict {
	case auth.Good:
		return server.Decision{Verdict: server.Good}
	case auth.TryLater:
		return server.Decision{Verdict: server.TryLater, RetryAfter: result.RetryAfter}
	}
	return server.Decision{Verdict: server.Bad}
}
