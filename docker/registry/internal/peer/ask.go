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
	// hopsLimit is the maximum number of concurrent hops to one member.
	hopsLimit = 512
	// unreserved is how many bytes of an answer are read before room is reserved for it.
	unreserved = 64 << 10
)

var (
	errNoMember     = errors.New("no such member")
	errMemberOut    = errors.New("the member is out")
	errConnectLimit = fmt.Errorf("no connection within %v", connectLimit)
	errLookupLimit  = errors.New("the address could not be looked up in time")
	errSilent       = fmt.Errorf("no bytes for %v", outAfter)
	errNestedHop    = errors.New("a hop must not send hops")
	errBusy         = fmt.Errorf("already %d hops to this member", hopsLimit)
	errNoProof      = errors.New("the answer has no valid proof")
	errWrongBody    = errors.New("the body does not match the proof")
)

// An Error is the reason why another replica did not answer.
type Error struct {
	Result Result
	Member string
	Reason Reason // set if Result is Refused
	Err    error
}

// Error returns the member, the result and the cause.
func (e *Error) Error() string { return fmt.Sprintf("peer %s: %s: %v", e.Member, e.Result, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CallOptions configure a call of Do.
type CallOptions struct {
	// StoreOnly requests only stored content: the member must not fetch.
	StoreOnly bool
	// UpstreamDown tells the member that this replica considers the upstream down.
	UpstreamDown bool
	// Silent, if not nil, is called when no bytes have arrived for a second although they are due, and again only after
	// some have arrived. The hop continues, but the caller may ask the next member. Silent is called in another
	// goroutine and must not block.
	Silent func()
	// Reserve, if not nil, is called before more than 64 KiB of an answer are read into memory, with its size or the
	// maximum size. If it returns an error, the answer is not read, and Do returns the error.
	Reserve func(ctx context.Context, bytes int64) error
}

// Do sends a request for a URI to a member, with the Accept and Range headers in header. The answer has only the
// headers that its proof covers. The bytes of a blob are not covered: the caller must check their digest. The caller
// must close the body. Reading it fails with an *Error when the member is out. The error is an *Error, or the cause of
// ctx.
func (p *Peers) Do(ctx context.Context, name, method, uri string, header http.Header, c CallOptions) (*http.Response, error) {
	resp, err := p.doOnce(ctx, p.hops, name, method, uri, header, c)
	if e, ok := errors.AsType[*Error](err); ok && e.Reason == Replayed {
		// An idle connection was closed, and net/http has resent the request. It does not do so on a new connection.
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
	resp, err := asked.send(by, method, uri, header, c.StoreOnly, c.UpstreamDown)
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

// probe sends a probe on a new connection. An answer with a proof marks the member as in.
func (x *exchange) probe() {
	x.m.peers.counts.probes.Add(1)
	defer x.end()
	resp, err := x.send(x.m.peers.fresh, http.MethodGet, probeURI, nil, false, false)
	if err == nil {
		_ = resp.Body.Close() // already in memory
	}
	e, failed := errors.AsType[*Error](err)
	if err == nil || failed && (e.Result == Refused || e.Result == Unable) {
		x.m.noteProof()
	}
}

// An exchange is one request to a member and its answer.
type exchange struct {
	m       *member
	parent  context.Context
	ctx     context.Context
	cancel  context.CancelCauseFunc
	silent  func()
	room    func(ctx context.Context, bytes int64) error // nil if there is no limit
	isProbe bool                                         // changes the member's state only when it ends
	watch   *watch
	socket  atomic.Pointer[socket] // socket of the connection
	sent    atomic.Bool
	ended   atomic.Bool
}

// hasUnread reports whether the kernel has unread bytes.
func (x *exchange) hasUnread() bool { return x.socket.Load().hasUnread() }

// send sends a request and verifies the answer. The error is an *Error, or the cause of the parent context.
func (x *exchange) send(by http.RoundTripper, method, uri string, header http.Header, store, out bool) (*http.Response, error) {
	p := x.m.peers
	to, err := url.ParseRequestURI(uri)
	if err != nil || !strings.HasPrefix(uri, "/") {
		return nil, x.newError(Unreachable, fmt.Errorf("%q is not a URI", uri))
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
	x.watch.arm() // start over in GotConn
	resp, err := by.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, x.brokenError(err)
	}
	x.watch.disarm()
	resp, err = x.verify(resp, h, key, to.RequestURI())
	if err != nil && resp != nil {
		_ = resp.Body.Close() // not read to its end, so the connection is closed
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// verify returns the answer if its proof is valid. It reads small answers into memory.
func (x *exchange) verify(resp *http.Response, h hop, key, uri string) (*http.Response, error) {
	p, ok := parseProof(resp.Header.Get(proofHeader))
	if ok {
		// The keys may have changed since the request was signed, and an older program signs its answer with the first
		// key.
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
	_ = resp.Body.Close() // already read to its end
	switch reason := Reason(header.Get(refusalHeader)); {
	case resp.StatusCode == http.StatusHTTPVersionNotSupported:
		return nil, x.newError(Unable, fmt.Errorf("it supports protocol versions %s, not %s", header.Get(versionsHeader), h.version))
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

// reserveError wraps an error of CallOptions.Reserve.
type reserveError struct{ error }

// readSmall reads a small body into memory, after reserving room for it.
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

// isRefusal reports whether an answer with this status may be the refusal of a hop.
func isRefusal(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusServiceUnavailable
}

// noteBytes records that verified bytes arrived, except for a probe, which counts only when it is complete.
func (x *exchange) noteBytes() {
	if !x.isProbe {
		x.m.noteBytes()
	}
}

// untrustedError returns the error for an answer without a valid proof.
func (x *exchange) untrustedError(err error) error {
	if !x.isProbe {
		x.m.markSuspect(0, err.Error())
		x.m.peers.closeIdle() // other idle connections may lead to the same wrong process
	}
	return x.newError(Untrusted, err)
}

// brokenError returns the error for an answer that did not start or ended early.
func (x *exchange) brokenError(err error) error {
	if errors.Is(context.Cause(x.ctx), errSilent) {
		return x.newError(Silent, errSilent)
	}
	if x.parent.Err() != nil {
		return context.Cause(x.parent)
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e // no connection: the member's state has already been updated
	}
	if !x.isProbe {
		x.m.markSuspect(0, "the connection ended early")
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
