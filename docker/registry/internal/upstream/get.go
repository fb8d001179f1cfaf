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

// listLimit is the most that a list of tags or referrers may have, in bytes.
const listLimit = 16 << 20

// An Answer is the answer to a client with status 200. It is shared and must not be changed.
type Answer struct {
	// Header has Content-Type, and of a manifest Docker-Content-Digest, of a list Link (relative) and OCI-Filters-Applied,
	// where the upstream has them.
	Header http.Header
	Digest digest.Digest // of a manifest
	Body   []byte        // as the upstream sent it
	// Asked is when the upstream was asked; of a manifest by digest it may be zero, as it may be from the store.
	Asked time.Time
	// Stale is why the upstream did not confirm a tag that is served as it was known last; nil for all that is fresh. It
	// may be that the upstream answers 403 or 404.
	Stale *Error
}

// Fresh reports whether the upstream has confirmed the answer.
func (a *Answer) Fresh() bool { return a.Stale == nil }

// Get returns a manifest by digest or tag, a list of tags, or referrers. It goes on until there is an answer, the upstream
// stalls, or ctx ends. The caller decides how long clients wait. Every error is an *Error, or the cause of ctx.
//
// A tag that the upstream does not confirm, for whatever reason, gets the last manifest that distribution knows, if there is one.
//
// accept is an Accept header. If it is empty or has */*, it asks for whatever the upstream has. Otherwise it asks only for what it
// names, and the answer does not change the tag for others.
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
	if err == nil && !a.Fresh() && ctx.Err() != nil { // it was not the upstream that failed
		return nil, context.Cause(ctx)
	}
	return a, err
}

// checkKind returns an error unless a request is of one of the kinds.
func (u *Upstream) checkKind(r route.Request, kinds ...route.Kind) error {
	if !slices.Contains(kinds, r.Kind) {
		return fmt.Errorf("upstream: this cannot be asked for by the kind %s", r.Kind)
	}
	return nil
}

// do runs a question until ctx ends or the upstream is closed.
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

// report logs an error that is not the client's, and returns it.
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
			u.log.Debug("a manifest that is passed on, not kept", "path", r.Path(), "type", s.raw.mediaType, "error", err)
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
	return nil, fmt.Errorf("distribution has no answer: %w", err)
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
		return nil, fmt.Errorf("a manifest of another digest than %s", w.head.Get("Docker-Content-Digest"))
	}
	m.digest = d
	return m.answer(time.Time{}), nil
}

// fetchExact returns a manifest of some types only. It does not use distribution, which would take the answer for the tag's.
func (u *Upstream) fetchExact(ctx context.Context, r route.Request, accept string) (*Answer, error) {
	s := &manifestSource{u: u, ctx: ctx, r: r, accept: accept}
	begun := time.Now()
	if err := s.get(); err != nil {
		return nil, err
	}
	return s.raw.answer(begun), nil
}

// list returns a list of tags or referrers as the upstream sends it.
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

// webPageError returns the error for a web page with status 200, with which a proxy before the upstream reports that it is down or
// wants a login. Nothing verifies it, so a tag must not get it as its manifest.
func webPageError() *requestError { return &requestError{invalid: true, message: "a web page"} }

// isWebPage reports whether a content type is that of a web page.
func isWebPage(contentType string) bool {
	mediaType, _, _ := mime.ParseMediaType(contentType)
	return mediaType == "text/html"
}

// relativeLinks returns a Link field with the request's path in all its links, so that clients ask the cache for the next page. A
// link without a query leads to no page; package manifest refuses it if it is the next one.
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

// stat returns the size of a blob by HEAD, for an upstream whose GET does not have it.
func (u *Upstream) stat(ctx context.Context, r route.Request) (int64, error) {
	resp, err := u.send(ctx, r, http.MethodHead, r.URI(), http.Header{})
	if err != nil {
		if status := asRequestError(err).status; status != http.StatusMethodNotAllowed && status != http.StatusNotImplemented {
			return 0, err
		}
		return 0, &requestError{sizeless: true, message: "neither GET nor HEAD gives the size: HEAD answers " + err.Error()}
	}
	_ = resp.Body.Close()
	if resp.ContentLength < 0 {
		return 0, &requestError{sizeless: true, message: "neither GET nor HEAD has a Content-Length"}
	}
	return resp.ContentLength, nil
}
