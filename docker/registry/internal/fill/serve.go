// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"strconv"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/server"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

// Results of requests, as server.SetResult is told.
const (
	hit    = "hit"    // from the store
	miss   = "miss"   // it began a fill
	shared = "shared" // it joined one
	absent = "absent" // 404
	failed = "error"
)

// rounds is how often a request begins anew when what it waited for has gone: stored and dropped again, or past.
const rounds = 5

// Serve answers a GET or HEAD of a blob. It panics with http.ErrAbortHandler to cut a body that cannot be completed.
//
// A HEAD starts a fill as a GET does: who asks for a blob's size mostly wants the blob next.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, q route.Request) {
	if h.serveStored(w, r, q) {
		return
	}
	waiting, stop := h.waiting(r.Context())
	defer stop()
	share := h.opts.Share
	for range rounds {
		switch h.serveFill(waiting, w, r, q, share) {
		case answered:
			return
		case alone:
			share = false
		}
		if h.serveStored(w, r, q) {
			return
		}
	}
	h.opts.Log.Error("A blob came and went too often to be served", "repository", q.Repository, "digest", q.Digest)
	server.WriteError(w, r, http.StatusServiceUnavailable, "", "the cache has no room to keep the blob for this request")
}

// waiting returns a context that ends when a client has waited long enough for a first byte.
func (h *Handler) waiting(ctx context.Context) (context.Context, context.CancelFunc) {
	if h.opts.Wait <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, h.opts.Wait, errWait)
}

// serveStored answers if the store has the blob.
func (h *Handler) serveStored(w http.ResponseWriter, r *http.Request, q route.Request) bool {
	if r.Method == http.MethodHead {
		size, ok := h.has(q)
		if ok {
			server.SetResult(r.Context(), hit)
			serveSized(w, r, q, size, sized(size), false)
		}
		return ok
	}
	b, err := h.open(r.Context(), q)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false
	case err != nil:
		h.opts.Log.Error("A blob of the store cannot be opened", "digest", q.Digest, "error", err)
		server.WriteError(w, r, http.StatusServiceUnavailable, "", "the cache cannot read the blob")
		return true
	}
	defer b.Close()
	server.SetResult(r.Context(), hit)
	if small, ok := b.Content().(*bytes.Reader); ok && plain(r) {
		setHeader(w.Header(), q)
		w.Header()["Content-Length"] = []string{strconv.FormatInt(b.Size, 10)}
		_, _ = small.WriteTo(w) // the client has gone: nobody is left to hear of it
		return true
	}
	serveSized(w, r, q, b.Size, b.Content(), false)
	return true
}

// sized is content for HEAD, which nobody reads.
func sized(size int64) io.ReadSeeker { return io.NewSectionReader(nil, 0, size) }

// plain reports whether a request has nothing for http.ServeContent to decide.
func plain(r *http.Request) bool {
	for _, name := range []string{"Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if _, ok := r.Header[name]; ok {
			return false
		}
	}
	return true
}

// outcome is what came of waiting for a fill.
type outcome int

const (
	answered outcome = iota
	again            // look at the store, then for a fill
	alone            // the same, for a fill of the request's own repository
)

// serveFill answers from the fill of a blob, unless waiting ends before there is something to read.
func (h *Handler) serveFill(waiting context.Context, w http.ResponseWriter, r *http.Request, q route.Request, share bool) outcome {
	f, first, err := h.join(q, share)
	switch {
	case err != nil:
		refuse(w, r, err)
		return answered
	case f == nil:
		return again
	}
	defer h.leave(f)
	g := f.growing
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	var reader *store.Reader
	if r.Method != http.MethodHead {
		reader, err = g.NewReader(ctx, begin(r, q, g.Size()))
	}
	if first {
		h.run(f)
	}
	if err != nil { // it came too late: what it wants has passed, or the blob is in the store
		h.detach(f)
		return again
	}
	if reader != nil {
		defer reader.Close()
	}
	if err := await(waiting, f); err != nil {
		if errors.Is(err, errElsewhere) {
			return again
		}
		if share && f.request != q && !errors.Is(err, errWait) && r.Context().Err() == nil {
			return alone // the other repository's error says nothing of this one
		}
		refuse(w, r, err)
		return answered
	}
	if first {
		server.SetResult(r.Context(), miss)
	} else {
		server.SetResult(r.Context(), shared)
	}
	switch size := g.Size(); {
	case size < 0:
		serveUnsized(w, q, g, reader)
	case reader == nil:
		serveSized(w, r, q, size, sized(size), false)
	default:
		serveSized(w, r, q, size, reader, true)
	}
	return answered
}

var (
	errWait      = errors.New("the upstream has not begun to send the blob yet; it is fetched on")
	errElsewhere = errors.New("the blob is in the store without having come")
)

// await waits until there is something to read. A client waits only for so long, and the fill goes on without it.
func await(ctx context.Context, f *fill) error {
	select {
	case <-f.begun:
		return nil
	case <-f.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if state, _ := f.growing.State(); f.err == nil && state != store.Whole {
		return errElsewhere
	}
	return f.err
}

// begin returns the first byte that a request wants, as far as it can be known.
func begin(r *http.Request, q route.Request, size int64) int64 {
	header := rangeHeader(r, q)
	if header == "" || size < 0 {
		return 0
	}
	ranges, _ := route.Ranges(header, size)
	if len(ranges) == 0 || !ascending(ranges) {
		return 0
	}
	return ranges[0].Start
}

// rangeHeader returns the Range header unless If-Range voids it.
func rangeHeader(r *http.Request, q route.Request) string {
	if condition := r.Header.Get("If-Range"); condition != "" && condition != etag(q) {
		return ""
	}
	return r.Header.Get("Range")
}

// serveSized answers from content of a known size. What passes may be gone once it was read (a fill that finds no room), so
// a request for ranges out of order gets the whole.
func serveSized(w http.ResponseWriter, r *http.Request, q route.Request, size int64, content io.ReadSeeker, passes bool) {
	setHeader(w.Header(), q)
	if r.Header.Get("Range") != "" {
		header := rangeHeader(r, q)
		ranges, satisfiable := route.Ranges(header, size)
		if !satisfiable && r.Header.Get("If-None-Match") == "" {
			server.WriteError(unsatisfiable{w, size}, r, http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID",
				fmt.Sprintf("the blob has %d bytes, and the range none of them", size))
			return
		}
		if passes && !ascending(ranges) {
			header = ""
		}
		r = withRange(r, header, size)
	}
	reader, grows := content.(*store.Reader)
	if !grows {
		http.ServeContent(w, r, "", time.Time{}, content)
		return
	}
	t := &tail{ResponseWriter: w, reader: reader}
	http.ServeContent(t, r, "", time.Time{}, reader)
	if t.err != nil {
		panic(http.ErrAbortHandler)
	}
}

// withRange returns a request with a Range header that http.ServeContent understands as package route does.
func withRange(r *http.Request, header string, size int64) *http.Request {
	clean := *r
	clean.Header = r.Header.Clone()
	clean.Header.Del("If-Range")
	clean.Header.Del("Range")
	if header != "" {
		clean.Header.Set("Range", header)
		route.CleanRange(clean.Header, size)
	}
	return &clean
}

// ascending reports whether ranges can be served from content that passes once.
func ascending(ranges []route.Range) bool {
	at := int64(0)
	for _, part := range ranges {
		if part.Start < at {
			return false
		}
		at = part.Start + part.Length
	}
	return true
}

// serveUnsized answers from a fill whose size is not known yet, with the whole whatever the range: where a range ends, and
// whether the blob has it, is not known either.
func serveUnsized(w http.ResponseWriter, q route.Request, g *store.Growing, reader *store.Reader) {
	setHeader(w.Header(), q)
	w.WriteHeader(http.StatusOK)
	if reader == nil {
		return
	}
	n, err := reader.CopyN(w, math.MaxInt64)
	if state, _ := g.State(); !errors.Is(err, io.ErrUnexpectedEOF) || state != store.Whole || n != g.Size() {
		panic(http.ErrAbortHandler)
	}
}

var (
	octetStream     = []string{"application/octet-stream"}
	acceptRanges    = []string{"bytes"}
	registryVersion = []string{"registry/2.0"}
)

func etag(q route.Request) string { return `"` + string(q.Digest) + `"` }

// setHeader sets what every answer with a blob has.
func setHeader(header http.Header, q route.Request) {
	header["Content-Type"] = octetStream
	header["Accept-Ranges"] = acceptRanges
	header["Docker-Distribution-Api-Version"] = registryVersion
	header["Docker-Content-Digest"] = []string{string(q.Digest)}
	header["Etag"] = []string{etag(q)}
}

// refuse answers with the error of a fill.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	var refusal *route.Refusal
	var headed interface{ Header() http.Header }
	if errors.As(err, &headed) && headed.Header().Get("Retry-After") != "" {
		w.Header().Set("Retry-After", headed.Header().Get("Retry-After"))
	}
	server.SetResult(r.Context(), failed)
	switch {
	case errors.As(err, &refusal):
		if refusal.Status == http.StatusNotFound {
			server.SetResult(r.Context(), absent)
		}
		server.WriteError(w, r, refusal.Status, refusal.Code, refusal.Message)
	case r.Context().Err() != nil: // the client has gone
		panic(http.ErrAbortHandler)
	case errors.Is(err, errClosed):
		server.WriteError(w, r, http.StatusServiceUnavailable, "", errClosed.Error())
	case errors.Is(err, errWait), errors.Is(err, ErrStalled), timedOut(err):
		server.WriteError(w, r, http.StatusGatewayTimeout, "", "the upstream takes too long to send the blob")
	default:
		server.WriteError(w, r, http.StatusBadGateway, "", "the upstream did not send the blob")
	}
}

func timedOut(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}
