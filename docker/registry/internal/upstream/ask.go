// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

// listLimit is the most that a list of tags or referrers may have, in bytes.
const listLimit = 16 << 20

// An Answer is what a client gets with status 200. It is shared: nobody changes it.
type Answer struct {
	// Header has Content-Type, and of a manifest Docker-Content-Digest, of a list Link (relative) and OCI-Filters-Applied,
	// where the upstream has them.
	Header http.Header
	Digest digest.Digest // of a manifest
	Body   []byte        // as the upstream sent it
	Size   int64         // of what was asked for: of a blob for Stat, of the body otherwise
	// Asked is when the upstream was asked; of a manifest by digest it may be zero, as it may be from the store.
	Asked time.Time
	// Stale is why the upstream did not confirm a tag that is served as it was known last; nil for all that is fresh. It
	// may be that the upstream answers 403 or 404.
	Stale *Error
}

// Fresh reports whether the answer is what the upstream has.
func (a *Answer) Fresh() bool { return a.Stale == nil }

// Ask returns a manifest by digest or tag, a list of tags, or referrers. It waits at most the manifest limit; the request
// goes on after it, and the next call for the same finds its answer. accept is the client's Accept, which the upstream gets
// beside the types that distribution knows and */*. Every error is an *Error, unless ctx has ended.
func (u *Upstream) Ask(ctx context.Context, r route.Request, accept string) (*Answer, error) {
	switch r.Kind {
	case route.Manifest, route.Tags, route.Referrers:
	default:
		return nil, fmt.Errorf("upstream: Ask cannot be used for the kind %s", r.Kind)
	}
	a, err := u.wait(ctx, r, r.Key(), u.limits.Manifest, func(ctx context.Context) (*Answer, error) {
		if r.Kind == route.Manifest {
			return u.manifest(ctx, r, acceptFor(accept))
		}
		return u.list(ctx, r)
	})
	if !errors.Is(err, errLate) {
		return a, err
	}
	why := problem(r.Kind, &failure{timeout: true, message: "no answer within " + u.limits.Manifest.String()})
	if r.Kind == route.Manifest && r.Tag != "" {
		if a := u.known(ctx, r, why); a != nil {
			return a, nil
		}
	}
	return nil, u.report(r, why)
}

// Stat returns the size of a blob, as the upstream says it. It waits at most the blob limit, as Ask does.
func (u *Upstream) Stat(ctx context.Context, r route.Request) (size int64, err error) {
	if r.Kind != route.Blob {
		return 0, fmt.Errorf("upstream: Stat cannot be used for the kind %s", r.Kind)
	}
	a, err := u.wait(ctx, r, "stat "+r.Key(), u.limits.Blob, func(ctx context.Context) (*Answer, error) { return u.stat(ctx, r) })
	switch {
	case errors.Is(err, errLate):
		return 0, u.report(r, problem(r.Kind, &failure{timeout: true, message: "no answer within " + u.limits.Blob.String()}))
	case err != nil:
		return 0, err
	}
	return a.Size, nil
}

// wait joins the work for a key or begins it.
func (u *Upstream) wait(
	ctx context.Context, r route.Request, key string, limit time.Duration, do func(context.Context) (*Answer, error),
) (*Answer, error) {
	w, limit := u.works.join(key, limit, func(w *work) {
		u.spawn(func() {
			ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
			defer cancel()
			defer context.AfterFunc(u.ctx, cancel)()
			defer context.AfterFunc(w.ctx, cancel)()
			a, err := do(ctx)
			if err != nil {
				err = u.report(r, err)
			}
			u.works.finish(w, a, err)
		})
	})
	return u.works.wait(ctx, w, limit)
}

// report logs an error that is not the client's, and returns it.
func (u *Upstream) report(r route.Request, err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		e = problem(r.Kind, asFailure(err))
	}
	if e.Status != http.StatusNotFound {
		u.log.Warn(e.Message, "path", r.Path(), "status", e.Upstream, "detail", e.Detail)
	}
	return e
}

// manifest has distribution fetch a manifest, or serve the one that it has.
func (u *Upstream) manifest(ctx context.Context, r route.Request, accept string) (*Answer, error) {
	s := &manifestSource{u: u, ctx: ctx, r: r, accept: accept}
	begun := time.Now()
	found, err := u.distribution(ctx, r, s)
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
			found.Stale = problem(r.Kind, s.failure)
		}
		return found, nil
	case s.failure != nil:
		return nil, s.failure
	}
	return nil, fmt.Errorf("distribution has no answer: %w", err)
}

func (m *raw) answer(asked time.Time) *Answer {
	header := http.Header{}
	header.Set("Content-Type", m.mediaType)
	header.Set("Docker-Content-Digest", m.digest.String())
	return &Answer{Header: header, Digest: m.digest, Body: m.content, Size: int64(len(m.content)), Asked: asked}
}

// distribution returns the manifest that distribution serves.
func (u *Upstream) distribution(ctx context.Context, r route.Request, s source) (*Answer, error) {
	w := newRecorder()
	if err := u.app.serve(ctx, w, r.Path(), http.Header{"Accept": accepted}, s); err != nil {
		return nil, err
	}
	if w.status != http.StatusOK {
		return nil, fmt.Errorf("status %d: %s", w.status, cutText(w.body.String()))
	}
	m := &raw{mediaType: w.head.Get("Content-Type"), content: w.body.Bytes()}
	d, err := digest.Parse(w.head.Get("Docker-Content-Digest"))
	if err != nil || r.Digest != "" && d != r.Digest || d.Algorithm().FromBytes(m.content) != d {
		u.count.refused.WithLabelValues("manifest", "digest").Inc()
		return nil, fmt.Errorf("a manifest of another digest than %s", w.head.Get("Docker-Content-Digest"))
	}
	m.digest = d
	return m.answer(time.Time{}), nil
}

// known returns a tag as distribution knows it, nil if it does not.
func (u *Upstream) known(ctx context.Context, r route.Request, why *Error) *Answer {
	a, err := u.distribution(ctx, r, offline{&failure{message: "not asked"}})
	if err != nil {
		return nil
	}
	a.Stale = why
	return a
}

// list asks for a list, which is passed on as it is.
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
	content, err := readAll(resp, listLimit)
	if err != nil {
		return nil, err
	}
	a := &Answer{Header: http.Header{}, Body: content, Size: int64(len(content)), Asked: begun}
	for _, name := range []string{"Content-Type", "Oci-Filters-Applied"} {
		if value := resp.Header.Get(name); value != "" {
			a.Header.Set(name, value)
		}
	}
	for _, link := range resp.Header["Link"] {
		if link, ok := relative(link, r); ok {
			a.Header.Add("Link", link)
		}
	}
	return a, nil
}

// relative returns the link to the next page without the upstream's host, so that clients ask the cache for it.
func relative(link string, r route.Request) (string, bool) {
	if len(link) == 0 || link[0] != '<' {
		return "", false
	}
	for i := range link {
		if link[i] != '>' {
			continue
		}
		to, err := url.Parse(link[1:i])
		if err != nil || to.RawQuery == "" {
			return "", false
		}
		return "<" + r.Path() + "?" + to.RawQuery + ">" + link[i+1:], true
	}
	return "", false
}

// stat asks for the size of a blob.
func (u *Upstream) stat(ctx context.Context, r route.Request) (*Answer, error) {
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		resp, err := u.send(ctx, r, method, r.URI(), http.Header{})
		if err != nil {
			if f := asFailure(err); method == http.MethodHead && (f.status == http.StatusMethodNotAllowed || f.status == http.StatusNotImplemented) {
				continue
			}
			return nil, err
		}
		_ = resp.Body.Close()
		size := resp.ContentLength
		if method == http.MethodHead && size < 0 {
			if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil {
				size = n
			}
		}
		if size >= 0 {
			return &Answer{Size: size, Asked: time.Now()}, nil
		}
	}
	return nil, &failure{invalid: true, message: "the upstream does not say the size of a blob"}
}
