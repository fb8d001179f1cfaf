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
	// maxErrorBody is how many bytes of an error from the upstream are read for the log.
	maxErrorBody = 4 << 10
	// maxLogText is how many characters of foreign text are logged.
	maxLogText = 300
	// unreserved is how many bytes of a response are read before room is reserved for it.
	unreserved = 64 << 10
	// maxRetryAfter is the maximum Retry-After that is sent to clients, whatever the upstream requests.
	maxRetryAfter = time.Minute
	// redirectLimit is the maximum number of redirects to follow.
	redirectLimit = 10
	// graceShare is the divisor of the challenge limit after which a request without a response triggers a check of the
	// upstream. Most responses start earlier, so that checks are rare.
	graceShare = 2
)

// Kinds of requests to an upstream, as in metrics.
const (
	kindChallenge = "challenge"
	kindToken     = "token"
	kindBlob      = "blob"
	kindManifest  = "manifest"
	kindTag       = "tag"
	kindOther     = "other"
)

// kindOf returns the metric label for the kind of a request.
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

// exchange is one request to the upstream, including redirects and token requests.
type exchange struct {
	kind      string
	anonymous atomic.Bool // the credential helper failed
}

// exchangeOf returns the exchange of a context, or nil.
func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// send sends a request to the upstream and follows redirects. Every error is a *requestError. A status of 400 or above
// is an error.
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
		u.tokens.forget(r.Repository) // a token may carry outdated permissions for an hour
	}
	return nil, f
}

// credentialRefused reports whether the upstream rejects the credential of this cache.
func (u *Upstream) credentialRefused(resp *http.Response, err error) bool {
	if u.credential == nil {
		return false
	}
	if err != nil {
		status := asRequestError(err).status
		return status == http.StatusUnauthorized || status == http.StatusForbidden // status of the token request
	}
	return resp.StatusCode == http.StatusUnauthorized
}

// ask sends a request and follows redirects. Only requests to the upstream itself have a token.
func (u *Upstream) ask(ctx context.Context, method, to string, header http.Header) (*http.Response, error) {
	for range redirectLimit {
		req, err := http.NewRequestWithContext(ctx, method, to, nil)
		if err != nil {
			return nil, err
		}
		req.Header = header.Clone()
		req.Header.Set("User-Agent", userAgent)
		req.Header.Set("Accept-Encoding", "identity") // the digest covers the bytes as stored
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
			return nil, &requestError{invalid: true, message: "redirects to this URL are not followed"}
		}
		to = next.String()
	}
	return nil, &requestError{invalid: true, message: "too many redirects"}
}

// isRoot reports whether a URL belongs to the upstream itself.
func (u *Upstream) isRoot(to *url.URL) bool {
	return to.Scheme == u.root.Scheme && to.Host == u.root.Host
}

// checkRedirect follows redirects of token requests, which oras-go checks. Other redirects are followed by ask.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if tokenFetchOf(req.Context()) == nil {
		return http.ErrUseLastResponse
	}
	if len(via) >= redirectLimit {
		return errors.New("too many redirects")
	}
	return nil
}

// statusError returns the error for a response with an error status.
func statusError(resp *http.Response) *requestError {
	f := &requestError{status: resp.StatusCode, message: errorMessage(resp)}
	// A number that does not fit into 64 bits counts as the largest one.
	if n, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		f.after = time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	return f
}

// errorMessage returns the first error message in a registry's response.
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

// truncate shortens text from the upstream or a helper for the log.
func truncate(text string) string {
	runes := []rune(strings.ToValidUTF8(text, "?"))
	return string(runes[:min(len(runes), maxLogText)])
}

var (
	errSilent  = errors.New("no response in time")
	errStalled = errors.New("the response stalled")
)

// limitedTransport is the transport for all requests. It limits the time until a response starts and the silence within
// it, counts requests, and checks the health of the upstream.
type limitedTransport struct{ u *Upstream }

// RoundTrip sends a request. It returns a *requestError if there is no response, or if the response to a token request
// is an error.
func (t *limitedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	u, kind := t.u, kindOther
	if x := exchangeOf(req.Context()); x != nil {
		kind = x.kind
	}
	token := tokenFetchOf(req.Context()) != nil
	if token {
		kind = kindToken
		if req.Header.Get("Authorization") != "" && !maySendCredential(u.root, req.URL) {
			return nil, &requestError{invalid: true, message: "the upstream requests the credential for " + req.URL.Host + ", which is not in the upstream's domain"}
		}
	}
	resp, err := t.roundTrip(req, kind)
	if err != nil || !token || resp.StatusCode < http.StatusBadRequest {
		return resp, err
	}
	defer resp.Body.Close()
	return nil, statusError(resp)
}

// roundTrip sends a request and waits until the response starts.
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
	if u.health.wasDown() {
		patience = 0 // it may still be down, and clients must not wait longer than for the challenge
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
	if resp.StatusCode == http.StatusSwitchingProtocols { // only Close would end a read of the connection
		closing()
		_ = resp.Body.Close()
		cancel(nil)
		return nil, &requestError{invalid: true, message: "the upstream switches protocols"}
	}
	resp.Body = &limitedBody{
		ReadCloser: resp.Body, ctx: ctx, stall: u.limits.Stall, received: u.count.received.WithLabelValues(kind),
		cancel: cancel, closing: closing,
	}
	return resp, nil
}

// noAnswerError returns the error of a request without a response. If the connection failed, it checks the whole
// upstream.
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

// unreachableError returns the error of a failed connection.
func unreachableError(err error) *requestError {
	var refused *requestError // refused by the guard
	if errors.As(err, &refused) {
		return refused
	}
	var timeout net.Error
	return &requestError{timeout: errors.As(err, &timeout) && timeout.Timeout(), message: truncate(err.Error())}
}

// metricLabel returns the metric label for the error.
func (e *requestError) metricLabel(ctx context.Context) string {
	switch {
	case e.timeout:
		return "timeout"
	case errors.Is(context.Cause(ctx), context.Canceled):
		return "canceled"
	}
	return "unreachable"
}

// challenge requests the upstream's challenge. It returns the reason if the upstream is down, or nil if it responds
// with any status.
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
	u.log.Warn("The upstream is down", "timeout", f.timeout, "error", f.message)
	return f
}

// maySendCredential reports whether the credential for a registry may be sent to the realm of its challenge, which must
// be the same host or in the same registered domain.
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

// limitedBody is a body that counts its bytes and fails if the upstream is silent for too long. Close cancels the
// context of the request.
type limitedBody struct {
	io.ReadCloser
	ctx      context.Context
	stall    time.Duration
	received interface{ Add(float64) }
	cancel   context.CancelCauseFunc
	closing  func() bool
}

// Read reads from the body. It fails if the upstream sends nothing for the stall limit; the time between two calls does
// not count.
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

// readAll reads a body of at most limit bytes, and reserves room in memory for it. Every error is a *requestError.
func (u *Upstream) readAll(ctx context.Context, resp *http.Response, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	tooLong := &requestError{invalid: true, message: "the response is longer than " + strconv.FormatInt(limit, 10) + " bytes"}
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
