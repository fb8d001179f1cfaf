// SPDX-License-Identifier: GPL-3.0-or-later

package relay

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/fill"
	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

const (
	// copySize is the buffer size for copying a blob, in bytes.
	copySize = 128 << 10
	// maxAttempts is the maximum number of requests to other members for a blob.
	maxAttempts = 16
	// errorLimit is how many bytes of an error response are read.
	errorLimit = 4 << 10
)

var buffers = sync.Pool{New: func() any { b := make([]byte, copySize); return &b }}

// Fetch fetches a blob from the members in the order of ownership. Each continues at the byte where the last one
// stopped. When it is this replica's turn, its own fill fetches the rest. If no bytes have arrived by then, Fetch
// returns fill.ErrNext, so that this replica's own fills serve the blob, unless they have just failed. If a member
// responds that the upstream is silent, that is final if this replica considers the upstream down, too.
//
// A member whose transfer was interrupted is asked for the rest. It refuses if its fill has failed permanently. That is
// final, since another member could only send the rest of different bytes, or would repeat a fetch that fails. For
// wrong bytes, the error then wraps fill.ErrAgain.
func (r *Relay) Fetch(ctx context.Context, q route.Request, g *store.Growing) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { g.Finish(context.Cause(ctx)) })() // wakes a writer that is waiting for slow readers
	tried, triedSelf := map[string]bool{}, r.own.FailedRecently(q)
	askedWhy := map[string]bool{}                                // members that were asked again without progress
	at := URI(q) + "&" + fill.RelayParameter + "=" + rand.Text() // identifies this relay to the members
	last := fill.ErrNext
	var parts []string // members that sent a part
	for range maxAttempts {
		name, self := r.nextOwner(q, tried, triedSelf)
		before, begun := g.Written(), time.Now()
		switch {
		case self && before == 0:
			return fill.ErrNext
		case self:
			triedSelf = true
			last = r.fetchSelf(ctx, q, g)
		case name == "":
			if before == 0 {
				return fill.ErrNext
			}
			return last
		default:
			last = r.fetchFrom(ctx, name, at, g)
		}
		state, cause := g.State()
		if !self && (g.Written() > before || isWrong(cause)) && !slices.Contains(parts, name) {
			parts = append(parts, name)
		}
		var refused *peerError
		switch {
		case state == store.Complete:
			r.keep(q, g, !self)
			return nil
		case isWrong(cause):
			r.denySenders(q, parts, cause)
			return fill.ErrNext // later clients are served by another fill
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case state == store.Failed:
			return cause
		case errors.As(last, &refused) && before == 0 && (refused.Status != http.StatusGatewayTimeout || r.opts.Health.IsDown(begun)):
			return refused
		case errors.Is(last, errWrong):
			return fmt.Errorf("%w: %w", fill.ErrAgain, last)
		case errors.Is(last, errBroken):
			return last
		}
		// A member whose connection was interrupted may be able to continue, or tell why it cannot. If it is gone, the
		// request fails at once.
		broke := !self && g.Written() == before && isBrokenOff(last) && !askedWhy[name]
		if broke {
			askedWhy[name] = true
		}
		if self || broke || g.Written() > before && !errors.Is(last, errSilent) {
			r.opts.Log.Info("A relay was interrupted", "peer", name, "digest", q.Digest, "offset", g.Written(), "error", last)
			continue
		}
		tried[name] = true
		r.opts.Log.Info("Continuing a blob with another replica", "peer", name, "digest", q.Digest, "offset", g.Written(), "error", last)
	}
	return last
}

// isWrong reports whether the cause is that the bytes do not match the digest.
func isWrong(cause error) bool {
	return errors.Is(cause, store.ErrDigest) || errors.Is(cause, store.ErrLong)
}

// denySenders adds all members that sent parts of a wrong blob to the denylist, since it is not known which part was
// wrong.
func (r *Relay) denySenders(q route.Request, names []string, err error) {
	for _, name := range names {
		r.denied.add(r.Key(q), name)
	}
	r.opts.Log.Error("Peers sent wrong bytes", "peers", names, "path", q.Path(), "error", err)
}

// keep stores a blob.
func (r *Relay) keep(q route.Request, g *store.Growing, relay bool) {
	keep := g.Keep
	if relay {
		keep = g.KeepRelay
	}
	if err := keep(r.opts.Store, q.Repository); err != nil {
		r.opts.Log.Debug("A relayed blob is not stored", "digest", q.Digest, "error", err)
	}
}

// brokenOffError is the error of an interrupted body.
type brokenOffError struct{ error }

// Unwrap returns the cause.
func (e *brokenOffError) Unwrap() error { return e.error }

// isBrokenOff reports whether an error is from a member that had started to send the body.
func isBrokenOff(err error) bool {
	_, ok := errors.AsType[*brokenOffError](err)
	return ok && !errors.Is(err, errSilent)
}

// fetchFrom fetches the missing part of a blob from a member. If the member responds with an error, the error is a
// *peerError.
func (r *Relay) fetchFrom(ctx context.Context, name, uri string, g *store.Growing) error {
	a, err := r.ask(ctx, name, uri, rangeFrom(g), peer.CallOptions{})
	if err != nil {
		return err
	}
	defer a.Close()
	return r.copyBody(ctx, a, g)
}

// rangeFrom returns the header that requests the missing part.
func rangeFrom(g *store.Growing) http.Header {
	if n := g.Written(); n > 0 {
		return http.Header{"Range": {fmt.Sprintf("bytes=%d-", n)}}
	}
	return nil
}

// copyBody copies the body of a response into a Growing.
func (r *Relay) copyBody(ctx context.Context, a *exchange, g *store.Growing) error {
	at, size, err := parseStart(a.Response, g.Written())
	if err != nil {
		return err
	}
	if peer.Stored(a.Header) {
		fill.MarkStored(ctx)
	}
	if known := g.Size(); known >= 0 && size >= 0 && known != size {
		return fmt.Errorf("the blob has %d bytes, expected %d", size, known)
	}
	if g.SetSize(size); size < 0 {
		size = g.Size() // size known from another member: an earlier end is an error
	}
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	for {
		n, err := a.Read(*buffer)
		if n > 0 {
			r.bytes.Add(int64(n))
			if _, failed := g.WriteAt((*buffer)[:n], at); failed != nil {
				return failed
			}
			at += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF) && (size < 0 || at == size):
			g.Finish(nil)
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("the body ended after %d of %d bytes", at, size)
		case err != nil:
			return &brokenOffError{err}
		}
	}
}

// parseStart returns the offset at which a body starts, and the size of the blob, which is negative if it is not known.
func parseStart(resp *http.Response, written int64) (at, size int64, err error) {
	switch resp.StatusCode {
	case http.StatusOK:
		return 0, resp.ContentLength, nil
	case http.StatusPartialContent:
		var first, last int64
		n, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &size)
		if err != nil || n != 3 || first != written || last != size-1 {
			return 0, 0, errors.New("the response has another range than requested")
		}
		return first, size, nil
	}
	refused := errorOf(resp)
	switch refused.Code {
	case fill.CodeWrong:
		return 0, 0, errWrong
	case fill.CodeBroken:
		return 0, 0, errBroken
	}
	if isOutage(resp.StatusCode) && resp.StatusCode != http.StatusGatewayTimeout || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return 0, 0, fmt.Errorf("status %d: %s", refused.Status, refused.Message)
	}
	return 0, 0, refused
}

// errorOf returns the error in a response.
func errorOf(resp *http.Response) *peerError {
	content, _ := io.ReadAll(io.LimitReader(resp.Body, errorLimit)) // a partial message is sufficient
	var body struct {
		Errors []struct{ Code, Message string }
	}
	made := &peerError{at: time.Now(), after: resp.Header.Get("Retry-After")}
	made.Status = resp.StatusCode
	made.age, _ = peer.Age(resp.Header)
	if _, err := strconv.ParseUint(made.after, 10, 32); err != nil {
		made.after = ""
	}
	if json.Unmarshal(content, &body) == nil && len(body.Errors) > 0 {
		made.Code, made.Message = body.Errors[0].Code, body.Errors[0].Message
	}
	return made
}

// fetchSelf fetches the missing part of a blob with this replica's own fill. Ignore the error if g is complete.
func (r *Relay) fetchSelf(ctx context.Context, q route.Request, g *store.Growing) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, q.Path(), nil)
	if err != nil {
		return err
	}
	if header := rangeFrom(g); header != nil {
		req.Header = header
	}
	w := &fillWriter{g: g, head: http.Header{}, at: g.Written()}
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			panic(p)
		}
		switch state, cause := g.State(); {
		case state == store.Failed:
			err = cause
		case w.failed():
			err = fmt.Errorf("status %d: %s", w.status, w.message.String())
		default:
			err = errors.New("the body ended early")
		}
	}()
	r.own.ServePeer(w, req, q)
	return nil
}

// A fillWriter is a response that writes its body into a fill.
type fillWriter struct {
	g       *store.Growing
	head    http.Header
	at      int64
	status  int
	message strings.Builder // body of an error
}

// Header returns the response header.
func (w *fillWriter) Header() http.Header { return w.head }

// WriteHeader records the status and the offset at which the body starts.
func (w *fillWriter) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	if status == http.StatusOK {
		w.at = 0
	}
}

func (w *fillWriter) failed() bool { return w.status >= http.StatusBadRequest }

// Write writes bytes of the blob, or records those of an error.
func (w *fillWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK) // no effect if the answer has started
	if w.failed() {
		w.message.Write(b[:min(len(b), max(0, errorLimit-w.message.Len()))])
		return len(b), nil
	}
	n, err := w.g.WriteAt(b, w.at)
	w.at += int64(n)
	return n, err
}
