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

// Metric label values that no other package defines.
const (
	kindTag   = "tag"
	kindOther = "other"

	resultHit       = "hit"
	resultAbsent    = "absent"
	resultError     = "error"
	resultChallenge = "challenge" // no credential, as in containerd's first request
	resultDenied    = "denied"    // wrong credential
	resultThrottled = "throttled" // too many credentials are waiting to be checked
)

// serve answers a request with a valid credential.
func (c *Cache) serve(w http.ResponseWriter, r *http.Request) {
	loaded := c.content.Load()
	if loaded == nil {
		server.Describe(r.Context(), server.Description{Kind: kindOther, Result: resultError})
		server.WriteError(w, r, http.StatusServiceUnavailable, "", "this replica is starting")
		return
	}
	q, refusal := loaded.table.Parse(r.URL)
	description := server.Description{Upstream: q.Upstream, Kind: kindOf(q), Result: resultError}
	server.Describe(r.Context(), description)
	switch {
	case refusal != nil:
		if refusal.Status == http.StatusNotFound {
			server.SetResult(r.Context(), resultAbsent)
		}
		server.WriteError(w, r, refusal.Status, refusal.Code, refusal.Message)
	case q.Kind == route.Ping:
		server.SetResult(r.Context(), resultHit)
		answerPing(w, r)
	case q.Kind == route.Blob:
		loaded.blobHandler(q.Upstream).Serve(w, r, q)
	default:
		result := loaded.manifests.Serve(w, r, q)
		if result != manifest.ClientGone {
			server.SetResult(r.Context(), string(result))
		}
	}
}

// answerPing answers a request for /v2/, with which clients check that this is a registry and that their credential is
// valid.
func answerPing(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", "2")
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, "{}") // fails only if the client has disconnected
	}
}

// kindOf returns the metric label for the kind of a request.
func kindOf(q route.Request) string {
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

// record adds a request to the metrics.
func (c *Cache) record(r *http.Request, o server.Outcome) {
	d := o.Description
	if d.Kind == "" { // the server refused the request
		d = c.describeRefused(r, o.Status)
	}
	c.metrics.CountRequest(d, o)
}

// describeRefused describes a request that did not reach serve.
func (c *Cache) describeRefused(r *http.Request, status int) server.Description {
	d := server.Description{Kind: kindOther, Result: resultError}
	if loaded := c.content.Load(); loaded != nil {
		if q, refusal := loaded.table.Parse(r.URL); refusal == nil {
			d.Upstream, d.Kind = q.Upstream, kindOf(q)
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

// allowAll is a server.Checker that accepts every credential.
type allowAll struct{}

// Check accepts every credential.
func (allowAll) Check(context.Context, string) server.Decision {
	return server.Decision{Verdict: server.Good}
}

// htpasswdChecker is a server.Checker that accepts the users of an htpasswd file.
type htpasswdChecker struct{ auth *auth.Checker }

// Check checks a credential. Every verdict but Good and TryLater counts as bad.
func (u htpasswdChecker) Check(ctx context.Context, authorization string) server.Decision {
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
