// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// hopsLimit is how many hops to one member run at once.
	hopsLimit = 512
	// unreserved is how many bytes of an answer are read before there is room for it.
	unreserved = 64 << 10
)

var (
	errNoMember     = errors.New("there is no such member")
	errMemberOut    = errors.New("it is out")
	errConnectLimit = fmt.Errorf("no connection within %v", connectLimit)
	errLookupLimit  = errors.New("its address cannot be looked up in time")
	errSilent       = fmt.Errorf("nothing came for %v", outAfter)
	errNestedHop    = errors.New("a hop never hops")
	errBusy         = fmt.Errorf("%d hops to it run already", hopsLimit)
	errNoProof      = errors.New("the answer has no right proof")
	errWrongBody    = errors.New("the body is not the one that was proven")
)

// An Error is the reason why another replica gave no answer.
type Error struct {
	Result Result
	Member string
	Reason Reason // of Refused
	Err    error
}

// Error returns the member, the result and the cause.
func (e *Error) Error() string { return fmt.Sprintf("peer %s: %s: %v", e.Member, e.Result, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CallOptions configure one call of Do.
type CallOptions struct {
	// StoreOnly asks for what the member has: it must not fetch.
	StoreOnly bool
	// Out tells the member that this replica finds the upstream out.
	Out bool
	// Silent is called by another goroutine when bytes have been due for a second, once until some come. The hop goes on, and
	// the caller may ask the next member meanwhile. Silent must not block. Nil: it is not called.
	Silent func()
	// Reserve is called before more than 64 KiB of an answer are read into memory, with its size or the most that it may have.
	// After an error the answer is not read, and the error is Do's. Nil: there is always room.
	Reserve func(ctx context.Context, bytes int64) error
}

// Do asks a member for a URI, with the header's Accept and Range. The answer has only headers that its proof covers. The
// bytes of a blob are not proven: the caller checks their digest. Its body must be closed; reading it fails with an *Error
// once the member is out. The error is an *Error, or that of ctx.
func (p *Peers) Do(ctx context.Context, name, method, uri string, header http.Header, c CallOptions) (*http.Response, error) {
	resp, err := p.doOnce(ctx, p.hops, name, method, uri, header, c)
	if e, ok := errors.AsType[*Error](err); ok && e.Reason == Replayed {
		// An idle connection ended, and net/http has sent the request again. It does not on a new one.
		resp, err = p.doOnce(ctx, p.fresh, name, method, uri, header, c)
	}
	result := Answered
	switch e, ok := errors.AsType[*Error](err); {
	case ok:
		result = e.Result
	case err != nil:
		result = Canceled
	}
	p.counts.hops[result].Add(1)
	return resp, err
}

func (p *Peers) doOnce(ctx context.Context, by http.RoundTripper, name, method, uri string, header http.Header, c CallOptions) (*http.Response, error) {
	m := p.find(name)
	_, isHop := FromContext(ctx)
	switch {
	case isHop:
		return nil, &Error{Result: Refused, Member: name, Err: errNestedHop}
	case m == nil || m == p.self:
		return nil, &Error{Result: Unreachable, Member: name, Err: errNoMember}
	case m.state() == Out:
		return nil, &Error{Result: Unreachable, Member: name, Err: errMemberOut}
	}
	select {
	case m.slots <- struct{}{}:
	default:
		return nil, &Error{Result: Busy, Member: name, Err: errBusy}
	}
	asked := &exchange{m: m, parent: ctx, silent: c.Silent, room: c.Reserve}
	asked.ctx, asked.cancel = context.WithCancelCause(ctx)
	resp, err := asked.send(by, method, uri, header, c.StoreOnly, c.Out)
	if err != nil {
		asked.end()
		return nil, err
	}
	return resp, nil
}

// newProbe returns an exchange that probes a member.
func (m *member) newProbe(ctx context.Context) *exchange {
	x := &exchange{m: m, parent: ctx, isProbe: true}
	x.ctx, x.cancel = context.WithCancelCause(ctx)
	return x
}

// probe sends a probe on a new connection. An answer with a proof makes the member alive again.
func (x *exchange) probe() {
	x.m.peers.counts.probes.Add(1)
	defer x.end()
	resp, err := x.send(x.m.peers.fresh, http.MethodGet, probeURI, nil, false, false)
	if err == nil {
		_ = resp.Body.Close() // it is in memory
	}
	e, failed := errors.AsType[*Error](err)
	if err == nil || failed && (e.Result == Refused || e.Result == Unable) {
		x.m.noteProof()
	}
}

// An exchange is one request to a member, with its answer.
type exchange struct {
	m       *member
	parent  context.Context
	ctx     context.Context
	cancel  context.CancelCauseFunc
	silent  func()
	room    func(ctx context.Context, bytes int64) error // nil: always
	isProbe bool                                         // it changes the member's state by its end only
	watch   *watch
	socket  atomic.Pointer[socket] // of its connection
	sent    atomic.Bool
	ended   atomic.Bool
}

// hasUnread reports whether bytes have arrived that were not read.
func (x *exchange) hasUnread() bool { return x.socket.Load().hasUnread() }

// send sends a request and verifies the answer. Errors are of type *Error, or the cause of the parent context.
func (x *exchange) send(by http.RoundTripper, method, uri string, header http.Header, store, out bool) (*http.Response, error) {
	p := x.m.peers
	to, err := url.ParseRequestURI(uri)
	if err != nil || !strings.HasPrefix(uri, "/") {
		return nil, x.newError(Unreachable, fmt.Errorf("%q is no URI", uri))
	}
	to.Scheme, to.Host = "http", x.m.name
	h := hop{version: p.version, from: p.self.name, to: x.m.name, time: time.Now().UnixMilli(), nonce: newNonce(), store: store, out: out}
	req := &http.Request{Method: method, URL: to, Host: x.m.name, Header: selectHeaders(header, signedRequest)}
	req.Header.Set("User-Agent", "registry-cache")
	key := p.secret.get()[0]
	h.mac = computeMAC(key, h.signedParts(method, to.RequestURI(), req.Header)...)
	req.Header[hopHeader] = []string{h.String()}
	if !x.isProbe {
		x.watch = newWatch(x)
	}
	ctx := httptrace.WithClientTrace(x.ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			x.socket.Store(socketOf(info.Conn))
			x.watch.arm()
		},
		WroteRequest: func(info httptrace.WroteRequestInfo) { x.sent.Store(info.Err == nil) },
	})
	x.watch.arm() // GotConn begins anew
	resp, err := by.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, x.brokenError(err)
	}
	x.watch.disarm()
	resp, err = x.verify(resp, h, key, to.RequestURI())
	if err != nil && resp != nil {
		_ = resp.Body.Close() // it is not read to its end, so its connection ends
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// verify returns the answer if its proof is right. It reads small answers into memory.
func (x *exchange) verify(resp *http.Response, h hop, key, uri string) (*http.Response, error) {
	p, ok := parseProof(resp.Header.Get(proofHeader))
	if ok {
		// The keys may have changed since the request was signed, and an older program answers by its first one.
		keys := append([]string{key}, x.m.peers.secret.get()...)
		_, ok = verifyMAC(keys, p.mac, p.signedParts(x.m.name, h.nonce, resp.StatusCode, resp.Header)...)
	}
	if !ok || p.version != h.version {
		return resp, x.untrustedError(errNoProof)
	}
	header := selectHeaders(resp.Header, signedAnswer)
	resp.Header = header
	x.noteBytes()
	if isStream(uri, resp.StatusCode) {
		resp.Body = &body{ReadCloser: resp.Body, x: x}
		return resp, nil
	}
	content, err := x.readSmall(resp)
	full, isFull := errors.AsType[*reserveError](err)
	switch {
	case isFull:
		return resp, full.error
	case err != nil:
		return resp, x.brokenError(err)
	case hashHex(content) != p.body:
		return resp, x.untrustedError(errWrongBody)
	}
	x.noteBytes()
	_ = resp.Body.Close() // read to its end
	switch reason := Reason(header.Get(refusalHeader)); {
	case resp.StatusCode == http.StatusHTTPVersionNotSupported:
		return nil, x.newError(Unable, fmt.Errorf("it knows versions %s, not %s", header.Get(versionsHeader), h.version))
	case isRefusal(resp.StatusCode) && reason != "":
		if reason == Draining {
			x.m.markLeaving()
		}
		e := x.newError(Refused, errors.New(string(reason)))
		e.Reason = reason
		return nil, e
	}
	resp.Body = io.NopCloser(bytes.NewReader(content))
	x.end()
	return resp, nil
}

// reserveError is the error of a caller that has no room in memory.
type reserveError struct{ error }

// readSmall returns a small body after room was reserved for it.
func (x *exchange) readSmall(resp *http.Response) ([]byte, error) {
	reserve := func(bytes int64) error {
		if x.room == nil || bytes <= unreserved {
			return nil
		}
		if err := x.room(x.ctx, bytes); err != nil {
			return &reserveError{err}
		}
		return nil
	}
	var content bytes.Buffer
	read := func(n int64) error {
		x.watch.arm()
		defer x.watch.disarm()
		_, err := content.ReadFrom(io.LimitReader(resp.Body, n))
		return err
	}
	size := resp.ContentLength
	if size > smallLimit {
		return nil, errWrongBody
	}
	if size >= 0 {
		if err := reserve(size); err != nil {
			return nil, err
		}
		content.Grow(int(size) + bytes.MinRead)
	} else {
		if err := read(unreserved); err != nil || content.Len() < unreserved {
			return content.Bytes(), err
		}
		if err := reserve(smallLimit); err != nil {
			return nil, err
		}
	}
	err := read(smallLimit + 1 - int64(content.Len()))
	return content.Bytes(), err
}

// isRefusal reports whether an answer with this status may refuse the hop.
func isRefusal(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusServiceUnavailable
}

// noteBytes notes that proven bytes came, except for a probe, which counts only as a whole.
func (x *exchange) noteBytes() {
	if !x.isProbe {
		x.m.noteBytes()
	}
}

// untrustedError returns the error for an answer that may come from anybody.
func (x *exchange) untrustedError(err error) error {
	if !x.isProbe {
		x.m.markSuspect(0, err.Error())
		x.m.peers.closeIdle() // others may lead to the same stranger
	}
	return x.newError(Untrusted, err)
}

// brokenError returns the error for an answer that did not begin or ended early.
func (x *exchange) brokenError(err error) error {
	if errors.Is(context.Cause(x.ctx), errSilent) {
		return x.newError(Silent, errSilent)
	}
	if x.parent.Err() != nil {
		return context.Cause(x.parent)
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e // no connection: the member's state is known already
	}
	if !x.isProbe {
		x.m.markSuspect(0, "its connection ended early")
	}
	return x.newError(Unreachable, err)
}

// newError returns an error about the member.
func (x *exchange) newError(result Result, err error) *Error {
	return &Error{Result: result, Member: x.m.name, Err: err}
}

// end ends the exchange, and reports whether it was still running.
func (x *exchange) end() bool {
	if !x.ended.CompareAndSwap(false, true) {
		return false
	}
	x.cancel(nil)
	x.watch.stop()
	if !x.isProbe {
		<-x.m.slots
	}
	return true
}
