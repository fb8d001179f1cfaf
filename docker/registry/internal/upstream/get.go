// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

// listLimit is the maximum size of a list of tags or referrers, in bytes.
const listLimit = 16 << 20

// An Answer is a response with status 200. It is shared and must not be modified.
type Answer struct {
	// Header has Content-Type. If the upstream sent them, a manifest also has Docker-Content-Digest, and a list has a
	// relative Link and OCI-Filters-Applied.
	Header http.Header
	Digest digest.Digest // only for a manifest
	Body   []byte        // as the upstream sent it
	// Asked is when the upstream was asked. It may be zero for a manifest by digest, which may come from the store.
	Asked time.Time
	// Stale is nil, or the reason why the upstream did not confirm a tag, which then is the last known manifest. The
	// reason may be a 403 or 404.
	Stale *Error
}

// Fresh reports whether the upstream has confirmed the answer.
func (a *Answer) Fresh() bool { return a.Stale == nil }

// Get returns a manifest by digest or tag, a list of tags, or referrers. It waits until there is an answer, the
// upstream stalls, or ctx is done; the caller decides how long clients wait. The error is an *Error, or the cause of
// ctx.
//
// If the upstream does not confirm a tag, for any reason, Get returns the last manifest that distribution knows, if
// there is one.
//
// accept is an Accept header. If it is empty or includes */*, any type is requested. Otherwise only the listed types
// are requested, and the answer does not change the tag for other clients.
func (u *Upstream) Get(ctx context.Context, r route.Request, accept string) (*Answer, error) {
	if err := u.checkKind(r, route.Manifest, route.Tags, route.Referrers); err != nil {
		return nil, err
	}
	a, err := do(ctx, u, r, func(ctx context.Context) (*Answer, error) {
		switch {
		case r.Kind != route.Manifest:
			return u.list(ctx, r)
		case accept != "" && !strings.Contains(accept, "*/*"):
			return u.fetchExact(ctx, r, accept)
		}
		return u.manifest(ctx, r, acceptFor(accept))
	})
	if err == nil && !a.Fresh() && ctx.Err() != nil { // the caller gave up; the upstream did not fail
		return nil, context.Cause(ctx)
	}
	return a, err
}

// checkKind returns an error unless the request has one of the kinds.
func (u *Upstream) checkKind(r route.Request, kinds ...route.Kind) error {
	if !slices.Contains(kinds, r.Kind) {
		return fmt.Errorf("upstream: requests of kind %s are not supported here", r.Kind)
	}
	return nil
}

// do calls ask with a context that is done when ctx is done or the upstream is closed.
func do[T any](ctx context.Context, u *Upstream, r route.Request, ask func(context.Context) (T, error)) (none T, err error) {
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(u.ctx, func() { cancel(errClosed) })()
	answer, err := ask(work)
	switch {
	case err == nil:
		return answer, nil
	case ctx.Err() != nil:
		return none, context.Cause(ctx)
	}
	return none, u.report(r, err)
}

// report converts an error to an *Error. It logs errors that are not caused by the client.
func (u *Upstream) report(r route.Request, err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		e = newError(r.Kind, asRequestError(err))
	}
	if e.Status != http.StatusNotFound {
		u.log.Warn(e.Message, "path", r.Path(), "status", e.Upstream, "detail", e.Detail)
	}
	return e
}

// manifest returns a manifest that distribution fetches or already has.
func (u *Upstream) manifest(ctx context.Context, r route.Request, accept string) (*Answer, error) {
	s := &manifestSource{u: u, ctx: ctx, r: r, accept: accept}
	begun := time.Now()
	found, err := u.fromDistribution(ctx, r, s)
	switch {
	case s.raw != nil && s.failure == nil:
		if found == nil {
			u.log.Debug("A manifest is not stored", "path", r.Path(), "type", s.raw.mediaType, "error", err)
		}
		return s.raw.answer(begun), nil
	case found != nil:
		if s.asked {
			found.Asked = begun
		}
		if s.failure != nil {
			found.Stale = newError(r.Kind, s.failure)
		}
		return found, nil
	case s.failure != nil:
		return nil, s.failure
	}
	return nil, fmt.Errorf("distribution did not respond: %w", err)
}

// answer returns the manifest as an Answer.
func (m *rawManifest) answer(asked time.Time) *Answer {
	header := http.Header{}
	header.Set("Content-Type", m.mediaType)
	header.Set("Docker-Content-Digest", m.digest.String())
	return &Answer{Header: header, Digest: m.digest, Body: m.content, Asked: asked}
}

// fromDistribution returns the manifest that distribution serves.
func (u *Upstream) fromDistribution(ctx context.Context, r route.Request, s source) (*Answer, error) {
	w := newRecorder(func(bytes int64) error { return u.reserve(ctx, bytes) })
	if err := u.app.serve(ctx, w, r.Path(), http.Header{"Accept": acceptedTypes}, s); err != nil {
		return nil, err
	}
	if w.full != nil {
		return nil, w.full
	}
	if w.status != http.StatusOK {
		return nil, fmt.Errorf("status %d: %s", w.status, truncate(w.body.String()))
	}
	m := &rawManifest{mediaType: w.head.Get("Content-Type"), content: w.body.Bytes()}
	d, err := digest.Parse(w.head.Get("Docker-Content-Digest"))
	if err != nil || r.Digest != "" && d != r.Digest || d.Algorithm().FromBytes(m.content) != d {
		u.count.refused.WithLabelValues("manifest", "digest").Inc()
		return nil, fmt.Errorf("the manifest does not match the digest %s", w.head.Get("Docker-Content-Digest"))
	}
	m.digest = d
	return m.answer(time.Time{}), nil
}

// fetchExact returns a manifest of the accepted types only. It does not use distribution, which would store the answer
// as the tag's manifest.
func (u *Upstream) fetchExact(ctx context.Context, r route.Request, accept string) (*Answer, error) {
	s := &manifestSource{u: u, ctx: ctx, r: r, accept: accept}
	begun := time.Now()
	if err := s.get(); err != nil {
		return nil, err
	}
	return s.raw.answer(begun), nil
}

// list returns a list of tags or referrers as sent by the upstream.
func (u *Upstream) list(ctx context.Context, r route.Request) (*Answer, error) {
	begun := time.Now()
	accept := "application/json"
	if r.Kind == route.Referrers {
		accept = "application/vnd.oci.image.index.v1+json, application/json"
	}
	resp, err := u.send(ctx, r, http.MethodGet, r.URI(), http.Header{"Accept": {accept}})
	if err != nil {
		return nil, err
	}
	content, err := u.readAll(ctx, resp, listLimit)
	if err != nil {
		return nil, err
	}
	if isWebPage(resp.Header.Get("Content-Type")) {
		return nil, webPageError()
	}
	a := &Answer{Header: http.Header{}, Body: content, Asked: begun}
	for _, name := range []string{"Content-Type", "Oci-Filters-Applied"} {
		if value := resp.Header.Get(name); value != "" {
			a.Header.Set(name, value)
		}
	}
	for _, link := range resp.Header["Link"] {
		a.Header.Add("Link", relativeLinks(link, r))
	}
	return a, nil
}

// webPageError returns the error for an HTML page with status 200, as sent by proxies during maintenance or to request
// a login. It cannot be verified, so it must not become the manifest of a tag.
func webPageError() *requestError {
	return &requestError{invalid: true, message: "the response is a web page"}
}

// isWebPage reports whether a content type is HTML.
func isWebPage(contentType string) bool {
	mediaType, _, _ := mime.ParseMediaType(contentType)
	return mediaType == "text/html"
}

// relativeLinks returns a Link field in which all links have the request's path, so that clients ask the cache for the
// next page. A link without a query is not a page; package manifest refuses it if it is the next one.
func relativeLinks(field string, r route.Request) string {
	var made strings.Builder
	quoted := false
	for i := 0; i < len(field); i++ {
		made.WriteByte(field[i])
		switch {
		case field[i] == '"':
			quoted = !quoted
		case field[i] == '\\' && quoted && i+1 < len(field):
			i++
			made.WriteByte(field[i])
		case field[i] == '<' && !quoted:
			target, _, _ := strings.Cut(field[i+1:], ">")
			made.WriteString(r.Path())
			if to, err := url.Parse(target); err == nil && to.RawQuery != "" {
				made.WriteString("?" + to.RawQuery)
			}
			i += len(target)
		}
	}
	return made.String()
}

// stat returns the size of a blob from a HEAD request, for an upstream that does not send it with a GET.
func (u *Upstream) stat(ctx context.Context, r route.Request) (int64, error) {
	resp, err := u.send(ctx, r, http.MethodHead, r.URI(), http.Header{})
	if err != nil {
		if status := asRequestError(err).status; status != http.StatusMethodNotAllowed && status != http.StatusNotImplemented {
			return 0, err
		}
		return 0, &requestError{sizeless: true, message: "neither GET nor HEAD returns the size: HEAD fails with " + err.Error()}
	}
	_ = resp.Body.Close()
	if resp.ContentLength < 0 {
		return 0, &requestError{sizeless: true, message: "neither GET nor HEAD returns a Content-Length"}
	}
	return resp.ContentLength, nil
}
