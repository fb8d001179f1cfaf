// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/publicsuffix"
	"oras.land/oras-go/v2/registry/remote/auth"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

const (
	// maxErrorBody is how many bytes of an upstream's error are read for the log.
	maxErrorBody = 4 << 10
	// maxLogText is how many characters of a text of others are logged.
	maxLogText = 300
	// unreserved is how many bytes of an answer are read before there is room for it.
	unreserved = 64 << 10
	// maxRetryAfter is the most that clients are asked to wait before they try again, whatever the upstream says.
	maxRetryAfter = time.Minute
	// redirectLimit is how many redirects are followed.
	redirectLimit = 10
	// graceShare is the part of the challenge limit after which a request without an answer makes the upstream suspect.
	// Most answers begin before, so that a challenge is rare.
	graceShare = 2
)

// Kinds of requests to an upstream, as metrics name them.
const (
	kindChallenge = "challenge"
	kindToken     = "token"
	kindBlob      = "blob"
	kindManifest  = "manifest"
	kindTag       = "tag"
	kindOther     = "other"
)

// kindOf returns the kind of a request for metrics.
func kindOf(r route.Request) string {
	switch {
	case r.Kind == route.Blob:
		return kindBlob
	case r.Kind == route.Manifest && r.Tag != "":
		return kindTag
	case r.Kind == route.Manifest:
		return kindManifest
	}
	return kindOther
}

type exchangeKey struct{}

// exchange is one question to the upstream, with all requests that it takes: redirects, and those for a token.
type exchange struct {
	kind      string
	anonymous atomic.Bool // the credential helper gave nothing
}

// exchangeOf returns the exchange of a context, or nil.
func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// send sends a request to the upstream and follows redirects. Every error is a *requestError: no answer, or a status of 400 and
// above.
func (u *Upstream) send(ctx context.Context, r route.Request, method, uri string, header http.Header) (*http.Response, error) {
	if out := u.health.outage(); out != nil {
		return nil, out
	}
	x := &exchange{kind: kindOf(r)}
	ctx = context.WithValue(ctx, exchangeKey{}, x)
	ctx = withScope(ctx, u.root.Host, r.Repository)
	resp, err := u.ask(ctx, method, u.root.String()+uri, header)
	if u.credentialRefused(resp, err) && u.credential.invalidate() {
		u.tokens.clear()
		if resp != nil {
			_ = resp.Body.Close()
		}
		resp, err = u.ask(ctx, method, u.root.String()+uri, header)
	}
	switch {
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return nil, &requestError{status: http.StatusUnauthorized, anonymous: x.anonymous.Load(), message: err.Error()}
	case err != nil:
		f := *asRequestError(err)
		f.anonymous = x.anonymous.Load()
		return nil, &f
	}
	if resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusMultipleChoices {
		return resp, nil
	}
	f := statusError(resp)
	f.anonymous = x.anonymous.Load()
	_ = resp.Body.Close()
	if f.status == http.StatusForbidden {
		u.tokens.forget(r.Repository) // a token may say for an hour what was allowed when it was given
	}
	return nil, f
}

// credentialRefused reports whether the upstream refuses the credential of this cache.
func (u *Upstream) credentialRefused(resp *http.Response, err error) bool {
	if u.credential == nil {
		return false
	}
	if err != nil {
		status := asRequestError(err).status
		return status == http.StatusUnauthorized || status == http.StatusForbidden // of the token
	}
	return resp.StatusCode == http.StatusUnauthorized
}

// ask sends a request, with a token for the upstream's API and without one for where that redirects to.
func (u *Upstream) ask(ctx context.Context, method, to string, header http.Header) (*http.Response, error) {
	for range redirectLimit {
		req, err := http.NewRequestWithContext(ctx, method, to, nil)
		if err != nil {
			return nil, err
		}
		req.Header = header.Clone()
		req.Header.Set("User-Agent", userAgent)
		req.Header.Set("Accept-Encoding", "identity") // a digest is over the bytes as they are stored
		client := u.plain.Do
		if u.isRoot(req.URL) && strings.HasPrefix(req.URL.Path, "/v2/") {
			client = u.authorized.Do
		}
		resp, err := client(req)
		if err != nil {
			return nil, err
		}
		location := resp.Header.Get("Location")
		if resp.StatusCode < 300 || resp.StatusCode > 399 || location == "" {
			return resp, nil
		}
		_ = resp.Body.Close()
		next, err := req.URL.Parse(location)
		if err != nil || next.Scheme != "https" && (next.Scheme != "http" || req.URL.Scheme == "https") {
			return nil, &requestError{invalid: true, message: "a redirect to a URL that is not followed"}
		}
		to = next.String()
	}
	return nil, &requestError{invalid: true, message: "too many redirects"}
}

// isRoot reports whether a URL is of the upstream itself.
func (u *Upstream) isRoot(to *url.URL) bool {
	return to.Scheme == u.root.Scheme && to.Host == u.root.Host
}

// checkRedirect allows redirects of token requests, which oras-go checks. Other redirects are followed by ask.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if tokenFetchOf(req.Context()) == nil {
		return http.ErrUseLastResponse
	}
	if len(via) >= redirectLimit {
		return errors.New("too many redirects")
	}
	return nil
}

// statusError returns the error for an answer of the upstream with an error status.
func statusError(resp *http.Response) *requestError {
	f := &requestError{status: resp.StatusCode, message: errorMessage(resp)}
	// What is too large for a number of 64 bits is the largest one.
	if n, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		f.after = time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	return f
}

// errorMessage returns the first error in a registry's answer.
func errorMessage(resp *http.Response) string {
	head, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(head, &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	return truncate(body.Errors[0].Code + ": " + body.Errors[0].Message)
}

// truncate returns a text of the upstream or a helper, shortened for the log.
func truncate(text string) string {
	runes := []rune(strings.ToValidUTF8(text, "?"))
	return string(runes[:min(len(runes), maxLogText)])
}

var (
	errSilent  = errors.New("no answer in time")
	errStalled = errors.New("the answer stalls")
)

// limitedTransport is the transport of all requests. It limits the time until an answer begins and the silence within it, counts
// requests, and checks the health of the upstream.
type limitedTransport struct{ u *Upstream }

// RoundTrip sends a request. It returns a *requestError if there is no answer, or if the answer to a token request is an error.
func (t *limitedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	u, kind := t.u, kindOther
	if x := exchangeOf(req.Context()); x != nil {
		kind = x.kind
	}
	token := tokenFetchOf(req.Context()) != nil
	if token {
		kind = kindToken
		if req.Header.Get("Authorization") != "" && !maySendCredential(u.root, req.URL) {
			return nil, &requestError{invalid: true, message: "the upstream sends the credential to " + req.URL.Host + ", which is not of its domain"}
		}
	}
	resp, err := t.roundTrip(req, kind)
	if err != nil || !token || resp.StatusCode < http.StatusBadRequest {
		return resp, err
	}
	defer resp.Body.Close()
	return nil, statusError(resp)
}

// roundTrip sends a request and waits until the answer begins.
func (t *limitedTransport) roundTrip(req *http.Request, kind string) (*http.Response, error) {
	u := t.u
	ctx, refused := u.guard.check(req.Context(), req.URL)
	if refused != nil {
		return nil, refused
	}
	ctx, cancel := context.WithCancelCause(ctx)
	closing := context.AfterFunc(u.ctx, func() { cancel(errClosed) })
	begun := time.Now()
	limit := time.AfterFunc(u.limits.Stall, func() { cancel(errSilent) })
	patience := u.limits.Challenge / graceShare
	if u.health.wasOut() {
		patience = 0 // it may still be: clients wait for no more than the challenge
	}
	grace := time.AfterFunc(patience, func() {
		u.spawn(func() {
			if !u.isRoot(req.URL) {
				return
			}
			if dead := u.health.check(begun); dead != nil {
				cancel(dead)
			}
		})
	})
	resp, err := u.transport.RoundTrip(req.WithContext(ctx))
	limit.Stop()
	grace.Stop()
	u.count.latency.WithLabelValues(kind).Observe(time.Since(begun).Seconds())
	if err != nil {
		closing()
		f := u.noAnswerError(ctx, err, u.isRoot(req.URL), begun)
		u.count.requests.WithLabelValues(kind, f.metricLabel(ctx)).Inc()
		cancel(nil)
		return nil, f
	}
	if u.isRoot(req.URL) {
		u.health.answered()
		u.count.out.Set(0)
	}
	u.count.requests.WithLabelValues(kind, strconv.Itoa(resp.StatusCode)).Inc()
	if resp.StatusCode == http.StatusSwitchingProtocols { // nothing ends a read of its connection but its Close
		closing()
		_ = resp.Body.Close()
		cancel(nil)
		return nil, &requestError{invalid: true, message: "the upstream changes the protocol"}
	}
	resp.Body = &limitedBody{
		ReadCloser: resp.Body, ctx: ctx, stall: u.limits.Stall, received: u.count.received.WithLabelValues(kind),
		cancel: cancel, closing: closing,
	}
	return resp, nil
}

// noAnswerError returns the error of a request without an answer. If its connection failed, it checks the whole upstream.
func (u *Upstream) noAnswerError(ctx context.Context, err error, root bool, begun time.Time) *requestError {
	var dead *requestError
	switch cause := context.Cause(ctx); {
	case errors.As(cause, &dead):
		return dead
	case cause != nil:
		return &requestError{timeout: cause == errSilent, message: cause.Error()}
	}
	f := unreachableError(err)
	if root {
		if dead := u.health.check(begun); dead != nil {
			return dead
		}
	}
	return f
}

// unreachableError returns the error of a connection.
func unreachableError(err error) *requestError {
	var refused *requestError // by the guard
	if errors.As(err, &refused) {
		return refused
	}
	var timeout net.Error
	return &requestError{timeout: errors.As(err, &timeout) && timeout.Timeout(), message: truncate(err.Error())}
}

// metricLabel returns the label of the error in metrics.
func (e *requestError) metricLabel(ctx context.Context) string {
	switch {
	case e.timeout:
		return "timeout"
	case errors.Is(context.Cause(ctx), context.Canceled):
		return "canceled"
	}
	return "unreachable"
}

// challenge asks for the upstream's challenge. It returns the reason if the upstream is out, or nil if it answers at all.
func (u *Upstream) challenge() *requestError {
	ctx, cancel := context.WithTimeoutCause(u.ctx, u.limits.Challenge, errSilent)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.root.String()+"/v2/", nil)
	if err != nil {
		return &requestError{message: err.Error()}
	}
	req.Header.Set("User-Agent", userAgent)
	begun := time.Now()
	resp, err := u.transport.RoundTrip(req)
	u.count.latency.WithLabelValues(kindChallenge).Observe(time.Since(begun).Seconds())
	if err == nil {
		u.count.requests.WithLabelValues(kindChallenge, strconv.Itoa(resp.StatusCode)).Inc()
		_ = resp.Body.Close()
		u.health.answered()
		u.count.out.Set(0)
		return nil
	}
	f := unreachableError(err)
	f.timeout = f.timeout || context.Cause(ctx) == errSilent
	u.count.requests.WithLabelValues(kindChallenge, f.metricLabel(ctx)).Inc()
	u.count.out.Set(1)
	u.log.Warn("the upstream is out", "timeout", f.timeout, "error", f.message)
	return f
}

// maySendCredential reports whether the credential for a registry may be sent to the realm of its challenge: to the same host, or
// one of the same registered domain.
func maySendCredential(registry, realm *url.URL) bool {
	if strings.EqualFold(registry.Hostname(), realm.Hostname()) {
		return true
	}
	if net.ParseIP(registry.Hostname()) != nil || net.ParseIP(realm.Hostname()) != nil {
		return false
	}
	one, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(registry.Hostname()))
	if err != nil {
		return false
	}
	other, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(realm.Hostname()))
	return err == nil && one == other
}

// limitedBody is a body that counts its bytes and fails when the upstream is silent for too long. Close ends the context of the
// request.
type limitedBody struct {
	io.ReadCloser
	ctx      context.Context
	stall    time.Duration
	received interface{ Add(float64) }
	cancel   context.CancelCauseFunc
	closing  func() bool
}

// Read waits for the upstream no longer than the limit. The time between two calls does not count.
func (b *limitedBody) Read(p []byte) (int, error) {
	timer := time.AfterFunc(b.stall, func() { b.cancel(errStalled) })
	n, err := b.ReadCloser.Read(p)
	timer.Stop()
	b.received.Add(float64(n))
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = &requestError{timeout: cause == errStalled, message: cause.Error()}
		} else {
			err = &requestError{cut: true, message: truncate(err.Error())}
		}
	}
	return n, err
}

// Close closes the body.
func (b *limitedBody) Close() error {
	b.closing()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// readAll returns a body of at most limit bytes, for which there is room in memory. Every error is a
// *requestError.
func (u *Upstream) readAll(ctx context.Context, resp *http.Response, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	tooLong := &requestError{invalid: true, message: "the answer is longer than " + strconv.FormatInt(limit, 10) + " bytes"}
	var content bytes.Buffer
	switch n := resp.ContentLength; {
	case n > limit:
		return nil, tooLong
	case n >= 0:
		if err := u.reserve(ctx, n); err != nil {
			return nil, asRequestError(err)
		}
		content.Grow(int(n) + bytes.MinRead)
	default:
		if _, err := content.ReadFrom(io.LimitReader(resp.Body, unreserved)); err != nil {
			return nil, asRequestError(err)
		}
		if content.Len() < unreserved {
			return content.Bytes(), nil
		}
		if err := u.reserve(ctx, limit); err != nil {
			return nil, asRequestError(err)
		}
	}
	if _, err := content.ReadFrom(io.LimitReader(resp.Body, limit+1-int64(content.Len()))); err != nil {
		return nil, asRequestError(err)
	}
	if int64(content.Len()) > limit {
		return nil, tooLong
	}
	return content.Bytes(), nil
}
