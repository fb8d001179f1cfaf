// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

// resumes is how often an interrupted transfer is resumed. Each attempt must make progress.
const resumes = 4

// Fetch fetches a blob into g through distribution, which stores, links and verifies it. It sets the size of g before
// the first byte, and resumes interrupted transfers. Fetch gives up only after the upstream has been silent for the
// stall limit; the caller decides how long clients wait. It returns nil if g is complete, even if the blob could not be
// stored. Otherwise it returns an *Error or the cause of ctx. The caller must finish and close g.
//
// If the same digest is fetched twice at the same time, from any upstreams and repositories, distribution stores only
// the first blob, since its map of running fetches is global. Fetch does not wait for the first one, and stores the
// second blob itself.
func (u *Upstream) Fetch(ctx context.Context, r route.Request, g *store.Growing) error {
	if err := u.checkKind(r, route.Blob); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(u.ctx, func() { cancel(errClosed) })()
	defer context.AfterFunc(ctx, func() { g.Finish(context.Cause(ctx)) })() // wakes a writer that is waiting for slow readers
	s := &blobSource{u: u, ctx: ctx, r: r, g: g, size: g.Size()}
	w := &blobWriter{g: g, head: http.Header{}}
	err := u.app.serve(store.WithGrowing(ctx, g), w, r.Path(), http.Header{}, s)
	s.close()
	return u.fetched(ctx, r, g, s, w, err)
}

// fetched ends a fetch and returns its error.
func (u *Upstream) fetched(ctx context.Context, r route.Request, g *store.Growing, s *blobSource, w *blobWriter, err error) error {
	if w.complete() {
		g.Finish(nil)
	}
	state, cause := g.State()
	if err == nil && w.status >= http.StatusBadRequest {
		err = fmt.Errorf("status %d: %s", w.status, truncate(w.message))
	}
	switch {
	case state == store.Complete:
		if _, ok := u.store.Has(r.Repository, r.Digest); !ok && err == nil {
			err = g.Keep(u.store, r.Repository)
		}
		if err != nil {
			u.log.Info("A blob is not stored", "path", r.Path(), "error", err)
		}
		return nil
	case errors.Is(cause, store.ErrDigest), errors.Is(cause, store.ErrLong):
		u.count.refused.WithLabelValues("blob", "digest").Inc()
		return u.report(r, &requestError{invalid: true, message: cause.Error()})
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errClosed):
		return context.Cause(ctx)
	case s.failure != nil:
		if g.Written() > 0 {
			u.count.refused.WithLabelValues("blob", "cut").Inc()
		}
		return u.report(r, s.failure)
	case state == store.Failed:
		return u.report(r, cause)
	case err == nil:
		err = errors.New("distribution sent an incomplete blob")
	}
	return u.report(r, err)
}

// blobSource is the upstream for one fetch of a blob. Distribution asks for the size, then for the bytes.
type blobSource struct {
	u    *Upstream
	ctx  context.Context
	r    route.Request
	g    *store.Growing
	size int64 // negative if unknown

	pending *http.Response // response to the GET from which the size was read
	failure *requestError
}

// answer answers a HEAD or GET request from distribution.
func (s *blobSource) answer(req *http.Request) (*http.Response, error) {
	if s.failure != nil {
		return replyError(req, s.failure)
	}
	if req.Method == http.MethodHead && s.size < 0 || req.Method != http.MethodHead && s.pending == nil {
		if err := s.open(); err != nil {
			s.failure = asRequestError(err)
			return replyError(req, s.failure)
		}
	}
	header := http.Header{"Content-Type": {"application/octet-stream"}, "Content-Length": {strconv.FormatInt(s.size, 10)}}
	resp := reply(req, http.StatusOK, header, nil)
	resp.ContentLength = s.size
	if req.Method != http.MethodHead {
		s.g.SetSize(s.size)
		resp.Body = &resumingBody{source: s, body: s.pending.Body}
		s.pending = nil
	}
	return resp, nil
}

// open sends the GET. The response includes the size, which saves a HEAD, unless it is chunked. Distribution does not
// accept blobs of unknown size.
func (s *blobSource) open() error {
	resp, err := s.u.send(s.ctx, s.r, http.MethodGet, s.r.URI(), http.Header{})
	if err != nil {
		return err
	}
	switch {
	case s.size < 0 && resp.ContentLength < 0:
		if s.size, err = s.u.stat(s.ctx, s.r); err != nil {
			s.size = -1
			_ = resp.Body.Close()
			return err
		}
	case s.size < 0:
		s.size = resp.ContentLength
	case resp.ContentLength >= 0 && resp.ContentLength != s.size:
		_ = resp.Body.Close()
		return &requestError{invalid: true, message: fmt.Sprintf("the blob has %d bytes, expected %d", resp.ContentLength, s.size)}
	}
	s.pending = resp
	return nil
}

// close closes a response that distribution has not read.
func (s *blobSource) close() {
	if s.pending != nil {
		_ = s.pending.Body.Close()
	}
}

var contentRange = regexp.MustCompile(`^bytes ([0-9]+)-[0-9]+/([0-9]+|\*)$`)

// resumingBody is the body of a blob. It resumes an interrupted transfer with a Range request.
type resumingBody struct {
	source *blobSource
	body   io.ReadCloser
	off    int64
	tries  int
	broken int64 // offset of the last interruption
	err    error
}

// Read reads from the blob, and resumes the transfer if necessary.
func (b *resumingBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.body.Read(p)
	b.off += int64(n)
	size := b.source.size
	switch {
	case err == nil, err == io.EOF && b.off >= size:
		return n, err
	case err == io.EOF:
		err = &requestError{cut: true, message: fmt.Sprintf("the body ended after %d of %d bytes", b.off, size)}
	}
	b.err = b.resume(asRequestError(err))
	return n, b.err
}

// resume requests the rest, unless there was no progress or the upstream is silent.
func (b *resumingBody) resume(f *requestError) error {
	s := b.source
	if !f.cut || b.tries == resumes || b.off <= b.broken {
		s.failure = f
		return f
	}
	s.u.log.Info("Resuming an interrupted transfer", "path", s.r.Path(), "offset", b.off, "error", f.message)
	b.tries, b.broken = b.tries+1, b.off
	_ = b.body.Close()
	resp, err := s.u.send(s.ctx, s.r, http.MethodGet, s.r.URI(), http.Header{"Range": {fmt.Sprintf("bytes=%d-", b.off)}})
	if err != nil {
		b.body = http.NoBody
		s.failure = asRequestError(err)
		return s.failure
	}
	b.body = resp.Body
	if err := skipTo(resp, b.off); err != nil {
		s.failure = asRequestError(err)
		return s.failure
	}
	return nil
}

// skipTo skips to the requested offset, if the response does not start there.
func skipTo(resp *http.Response, off int64) error {
	if resp.StatusCode == http.StatusPartialContent {
		found := contentRange.FindStringSubmatch(resp.Header.Get("Content-Range"))
		if found == nil || found[1] != strconv.FormatInt(off, 10) {
			return &requestError{invalid: true, message: "the response has another range than requested"}
		}
		return nil
	}
	_, err := io.CopyN(io.Discard, resp.Body, off)
	if err == io.EOF {
		err = &requestError{cut: true, message: "the transfer was interrupted again"}
	}
	return err
}

// Close closes the body.
func (b *resumingBody) Close() error { return b.body.Close() }

// blobWriter is a response that writes what distribution serves into g. If distribution also stores the blob, g skips
// bytes that it already has.
type blobWriter struct {
	g       *store.Growing
	head    http.Header
	status  int
	written int64
	message string // body of an error
}

// Header returns the header.
func (w *blobWriter) Header() http.Header { return w.head }

// Flush does nothing. Distribution's own writers call it.
func (w *blobWriter) Flush() {}

// WriteHeader records the status. An error may follow a part of the blob.
func (w *blobWriter) WriteHeader(status int) {
	if w.status < http.StatusBadRequest {
		w.status = status
	}
}

// Write writes bytes of the blob, or records those of an error.
func (w *blobWriter) Write(p []byte) (int, error) {
	if w.status >= http.StatusBadRequest {
		w.message += string(p[:min(len(p), max(0, maxLogText-len(w.message)))])
		return len(p), nil
	}
	n, err := w.g.WriteAt(p, w.written)
	w.written += int64(n)
	return n, err
}

// complete reports whether the writer has received all bytes.
func (w *blobWriter) complete() bool {
	size, err := strconv.ParseInt(w.head.Get("Content-Length"), 10, 64)
	return err == nil && w.written == size && w.status < http.StatusBadRequest
}
