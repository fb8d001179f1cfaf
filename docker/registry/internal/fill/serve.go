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
	"os"
	"slices"
	"strconv"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/server"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

// Results of requests, for server.SetResult.
const (
	resultHit    = "hit"    // from the store
	resultMiss   = "miss"   // started a fill
	resultShared = "shared" // joined a fill
	resultAbsent = "absent" // 404
	resultError  = "error"
)

// maxRounds is how often a request starts over because the blob was evicted or the fill's window has moved on.
const maxRounds = 5

// Serve answers a GET or HEAD request for a blob. It panics with http.ErrAbortHandler to cut a body that cannot be
// completed.
//
// A HEAD request starts a fill, too, since most clients request the blob next.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, q route.Request) {
	if h.serveStored(w, r, q) {
		return
	}
	waiting, stop := h.waitContext(r.Context())
	defer stop()
	h.serveFills(waiting, w, r, q)
}

// serveFills answers from a fill, from Next, or with an error.
func (h *Handler) serveFills(waiting context.Context, w http.ResponseWriter, r *http.Request, q route.Request) {
	if err := h.tryFills(waiting, w, r, q); err != nil {
		writeError(w, r, err)
	}
}

// tryFills answers from a fill, or returns an error if it wrote no response. Next is tried first for requests that Pass
// selects, and last for all others.
func (h *Handler) tryFills(waiting context.Context, w http.ResponseWriter, r *http.Request, q route.Request) error {
	var failed error // error of Next
	if h.opts.Next != nil && h.opts.Pass(q) {
		failed = h.opts.Next.tryFills(waiting, w, r, q)
		if failed == nil || !othersMayHave(failed) || waiting.Err() != nil {
			return failed
		}
	}
	for range maxRounds {
		served, err := h.serveFill(waiting, w, r, q)
		switch {
		case errors.Is(err, ErrNext) && failed != nil:
			return failed
		case errors.Is(err, ErrNext) && h.opts.Next != nil:
			failed = h.opts.Next.tryFills(waiting, w, r, q)
			if failed == nil || !othersMayHave(failed) || waiting.Err() != nil {
				return failed
			}
		case err != nil:
			return err
		case served || h.serveStored(w, r, q):
			return nil
		}
	}
	h.opts.Log.Error("Cannot serve a blob: it was evicted before it could be read", "repository", q.Repository, "digest", q.Digest)
	server.WriteError(w, r, http.StatusServiceUnavailable, "", "the cache has no room to store the blob for this request")
	return nil
}

// waitContext returns a context that ends after Options.Wait.
func (h *Handler) waitContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if h.opts.Wait <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, h.opts.Wait, errWaitTimeout)
}

// serveStored answers if the blob is in the store, and reports whether it is.
func (h *Handler) serveStored(w http.ResponseWriter, r *http.Request, q route.Request) bool {
	if r.Method == http.MethodHead {
		size, ok := h.lookup(q)
		if ok {
			server.SetResult(r.Context(), resultHit)
			serveSized(w, r, q, size, headContent(size), false)
		}
		return ok
	}
	b, err := h.open(r.Context(), q)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false
	case err != nil:
		h.opts.Log.Error("Cannot open a stored blob", "digest", q.Digest, "error", err)
		server.WriteError(w, r, http.StatusServiceUnavailable, "", "the cache cannot read the blob")
		return true
	}
	defer b.Close()
	server.SetResult(r.Context(), resultHit)
	if small, ok := b.Content().(*bytes.Reader); ok && isUnconditional(r) {
		setHeader(w.Header(), q)
		w.Header()["Content-Length"] = []string{strconv.FormatInt(b.Size, 10)}
		w.WriteHeader(http.StatusOK) // an empty blob writes nothing
		_, _ = small.WriteTo(w)      // fails only if the client has disconnected
		return true
	}
	file, ok := b.Content().(*os.File)
	if !ok {
		serveSized(w, r, q, b.Size, b.Content(), false)
		return true
	}
	serveFile(w, r, q, b, file)
	return true
}

// serveFile sends the file of a blob.
func serveFile(w http.ResponseWriter, r *http.Request, q route.Request, b *store.Blob, file *os.File) {
	sent := &fileResponse{ResponseWriter: w}
	serveSized(sent, r, q, b.Size, file, false)
	if sent.early {
		b.CheckFile()
	}
}

// headContent returns content of a size for a HEAD request, which does not read it.
func headContent(size int64) io.ReadSeeker { return io.NewSectionReader(nil, 0, size) }

// isUnconditional reports whether a request has no header that http.ServeContent would evaluate.
func isUnconditional(r *http.Request) bool {
	for _, name := range []string{"Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if _, ok := r.Header[name]; ok {
			return false
		}
	}
	return true
}

// A waiter is a request that waits for a fill.
type waiter struct {
	h *Handler
	r *http.Request
	q route.Request
	// ctx ends with the request, or when a response is written.
	ctx    context.Context
	places []place // places in other fills are given up once a fill serves the client
}

// A place is the membership of a client in a fill.
type place struct {
	fill   *fill
	reader *store.Reader // nil for HEAD requests
	first  bool          // the client started the fill
}

// leave removes the client from the fill.
func (p place) leave(h *Handler) {
	if p.reader != nil {
		_ = p.reader.Close() // never fails
	}
	h.removeClient(p.fill)
}

// addReader adds a reader to a fill that the client has joined. It starts the fill if the client is the first.
func (w *waiter) addReader(f *fill, first bool) (err error) {
	p := place{fill: f, first: first}
	if w.r.Method != http.MethodHead {
		p.reader, err = f.growing.NewReader(w.ctx, firstByte(w.r, w.q, f.growing.Size()))
	}
	w.places = append(w.places, p)
	if first {
		w.h.run(f)
	}
	if err != nil { // too late: the window has moved on, or the blob is in the store
		w.h.detach(f)
		return errStartOver
	}
	return nil
}

// join joins a fill; see Handler.join.
func (w *waiter) join(own bool) error {
	f, first, err := w.h.join(w.q, own)
	switch {
	case err != nil:
		return err
	case f == nil:
		return errStartOver
	case w.waitsFor(f):
		w.h.removeClient(f) // it already waits for this fill
		return nil
	}
	return w.addReader(f, first)
}

// choose returns the client's place in a fill, and leaves all other fills.
func (w *waiter) choose(f *fill) (place, error) {
	if f.foundInStore() {
		return place{}, errStartOver
	}
	if !w.waitsFor(f) {
		w.h.addClient(f)
		if err := w.addReader(f, false); err != nil {
			return place{}, err
		}
	}
	var chosen place
	for _, p := range w.places {
		if p.fill == f {
			chosen = p
		} else {
			p.leave(w.h)
		}
	}
	w.places = []place{chosen}
	return chosen, nil
}

// waitsFor reports whether the client waits for a fill.
func (w *waiter) waitsFor(f *fill) bool {
	return slices.ContainsFunc(w.places, func(p place) bool { return p.fill == f })
}

// wait waits for a fill with something to read, and returns the client's place in it. If waiting ends first, the fill
// continues without the client. If the error is errStartOver, the request must start over.
func (w *waiter) wait(waiting context.Context) (place, error) {
	if err := w.join(false); err != nil {
		return place{}, err
	}
	patience := time.NewTimer(otherPatience)
	defer patience.Stop()
	for {
		f := w.places[len(w.places)-1].fill
		other := f.request.Repository != w.q.Repository
		select {
		case <-f.group.hasLeader:
			return w.choose(f.group.leader)
		case <-waiting.Done():
			return place{}, context.Cause(waiting)
		case <-f.done:
			if f.err == nil {
				return w.choose(f)
			}
			if !other || waiting.Err() != nil {
				return place{}, f.err
			}
			// The error of another repository does not apply to this one.
		case <-patience.C:
			if !other {
				continue
			}
		}
		if err := w.join(true); err != nil {
			return place{}, err
		}
	}
}

// serveFill answers from a fill. It returns an error if the fill fails or waiting ends before there is something to
// read, and false without an error if the request must start over.
func (h *Handler) serveFill(waiting context.Context, w http.ResponseWriter, r *http.Request, q route.Request) (bool, error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	c := &waiter{h: h, r: r, q: q, ctx: ctx}
	defer func() {
		for _, p := range c.places {
			p.leave(h)
		}
	}()
	p, err := c.wait(waiting)
	switch {
	case errors.Is(err, errStartOver), errors.Is(err, ErrAgain):
		return false, nil
	case err != nil:
		return false, err
	case p.fill.isWrong():
		return false, p.fill.wait(waiting)
	case p.first && p.fill.stored.Load():
		server.SetResult(r.Context(), resultHit)
	case p.first:
		server.SetResult(r.Context(), resultMiss)
	default:
		server.SetResult(r.Context(), resultShared)
	}
	setStored(w.Header(), r, p.fill)
	g, reader := p.fill.growing, p.reader
	defer h.noteBroken(r, g) // before the connection is cut
	switch size := g.Size(); {
	case size < 0:
		serveUnsized(w, q, g, reader)
	case reader == nil:
		serveSized(w, r, q, size, headContent(size), false)
	default:
		serveSized(w, r, q, size, reader, true)
	}
	return true, nil
}

var (
	errWaitTimeout = errors.New("the upstream has not started sending the blob yet; the fetch continues")
	errStartOver   = errors.New("the blob is already in the store, or the fill's window has moved on")
)

// firstByte returns the offset of the first requested byte, or 0 if it is not known.
func firstByte(r *http.Request, q route.Request, size int64) int64 {
	header := rangeHeader(r, q)
	if header == "" || size < 0 {
		return 0
	}
	ranges, _ := route.Ranges(header, size)
	if len(ranges) == 0 || !isAscending(ranges) {
		return 0
	}
	return ranges[0].Start
}

// rangeHeader returns the Range header, or "" if If-Range does not match.
func rangeHeader(r *http.Request, q route.Request) string {
	if condition := r.Header.Get("If-Range"); condition != "" && condition != etag(q) {
		return ""
	}
	return r.Header.Get("Range")
}

// serveSized answers from content of a known size. With passes, content can be read only once (a fill without room), so
// that a request for ranges in descending order gets the whole blob.
func serveSized(w http.ResponseWriter, r *http.Request, q route.Request, size int64, content io.ReadSeeker, passes bool) {
	setHeader(w.Header(), q)
	if r.Header.Get("Range") != "" {
		header := rangeHeader(r, q)
		ranges, satisfiable := route.Ranges(header, size)
		if !satisfiable && r.Header.Get("If-None-Match") == "" {
			server.WriteError(rangeErrorResponse{w, size}, r, http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID",
				fmt.Sprintf("the range is outside of the blob, which has %d bytes", size))
			return
		}
		if passes && !isAscending(ranges) {
			header = ""
		}
		r = withRange(r, header, size)
	}
	reader, grows := content.(*store.Reader)
	if !grows {
		http.ServeContent(w, r, "", time.Time{}, content)
		return
	}
	t := &growingResponse{ResponseWriter: w, reader: reader}
	http.ServeContent(t, r, "", time.Time{}, reader)
	if t.err != nil {
		panic(http.ErrAbortHandler)
	}
}

// withRange returns a request with a Range header that http.ServeContent interprets like package route.
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

// isAscending reports whether ranges can be served from content that can be read only once.
func isAscending(ranges []route.Range) bool {
	at := int64(0)
	for _, part := range ranges {
		if part.Start < at {
			return false
		}
		at = part.Start + part.Length
	}
	return true
}

// serveUnsized answers from a fill of unknown size. It ignores ranges and sends the whole blob, since a range cannot be
// checked against the size.
func serveUnsized(w http.ResponseWriter, q route.Request, g *store.Growing, reader *store.Reader) {
	setHeader(w.Header(), q)
	w.WriteHeader(http.StatusOK)
	if reader == nil {
		return
	}
	n, err := reader.CopyN(w, math.MaxInt64)
	if state, _ := g.State(); !errors.Is(err, io.ErrUnexpectedEOF) || state != store.Complete || n != g.Size() {
		panic(http.ErrAbortHandler)
	}
}

var (
	octetStream     = []string{"application/octet-stream"}
	acceptRanges    = []string{"bytes"}
	registryVersion = []string{"registry/2.0"}
)

// etag returns the ETag of a blob.
func etag(q route.Request) string { return `"` + string(q.Digest) + `"` }

// setHeader sets the headers of a response with a blob.
func setHeader(header http.Header, q route.Request) {
	header["Content-Type"] = octetStream
	header["Accept-Ranges"] = acceptRanges
	header["Docker-Distribution-Api-Version"] = registryVersion
	values := []string{string(q.Digest), etag(q)}
	header["Docker-Content-Digest"], header["Etag"] = values[:1:1], values[1:]
}

// writeError writes the response for the error of a fill.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	var refusal *route.StatusError
	var headed interface{ Header() http.Header }
	if errors.As(err, &headed) && headed.Header().Get("Retry-After") != "" {
		w.Header().Set("Retry-After", headed.Header().Get("Retry-After"))
	}
	server.SetResult(r.Context(), resultError)
	setAge(w.Header(), r, err)
	switch {
	case errors.As(err, &refusal):
		if refusal.Status == http.StatusNotFound {
			server.SetResult(r.Context(), resultAbsent)
		}
		server.WriteError(w, r, refusal.Status, refusal.Code, refusal.Message)
	case r.Context().Err() != nil: // the client has disconnected
		panic(http.ErrAbortHandler)
	case errors.Is(err, errClosed):
		server.WriteError(w, r, http.StatusServiceUnavailable, "", errClosed.Error())
	case errors.Is(err, errWaitTimeout), errors.Is(err, ErrStalled), isTimeout(err):
		server.WriteError(w, r, http.StatusGatewayTimeout, "", "the upstream did not send the blob in time")
	default:
		server.WriteError(w, r, http.StatusBadGateway, "", "the upstream did not send the blob")
	}
}

// isTimeout reports whether an error is a timeout.
func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}
