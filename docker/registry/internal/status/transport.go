// SPDX-License-Identifier: GPL-3.0-or-later

// Package status tells clients what the upstream answered. The registry's proxy forgets it: a tag is 404 whatever the
// upstream said, a manifest or a blob is 500 for all but a few errors. Transport notes each answer of the upstream in the
// context of the client's request, and Handler puts it in the place of the registry's own error.
package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
)

const (
	// peek is how many bytes of an upstream's error are read for the log.
	peek = 4 << 10
	// longest is how many characters of its message are logged.
	longest = 300
)

type exchangeKey struct{}

// exchange is what the upstream answered on behalf of one request of a client.
type exchange struct {
	last      atomic.Pointer[outcome]
	anonymous atomic.Bool // a token was asked for without a credential
}

// outcome is what became of one request to the upstream.
type outcome struct {
	status     int    // 0: no answer
	timeout    bool   // no answer in time
	retryAfter string // seconds, if the upstream gave them
	message    string // for the log
}

func (o *outcome) failed() bool {
	return o == nil || o.status == 0 || o.status >= http.StatusBadRequest
}

func of(ctx context.Context) *exchange {
	e, _ := ctx.Value(exchangeKey{}).(*exchange)
	return e
}

// Failed tells whether the upstream's last answer on behalf of a client's request was an error, or there was none.
func Failed(ctx context.Context) bool {
	e := of(ctx)
	return e != nil && e.last.Load().failed()
}

// Unreached notes that what failed needed the upstream. The proxy asks for a challenge in a context of its own, whose
// failure Transport sees without knowing for whom.
func Unreached(ctx context.Context, err error) {
	if e := of(ctx); e != nil {
		e.last.CompareAndSwap(nil, lost(err))
	}
}

func lost(err error) *outcome {
	var timeout net.Error
	return &outcome{timeout: errors.As(err, &timeout) && timeout.Timeout(), message: err.Error()}
}

// Transport asks the upstream by way of another transport.
type Transport struct{ http.RoundTripper }

// RoundTrip notes the answer in the request's context.
func (t Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	e := of(req.Context())
	if e == nil {
		return t.RoundTripper.RoundTrip(req)
	}
	if req.Header.Get("Authorization") == "" && req.URL.Query().Has("scope") {
		e.anonymous.Store(true)
	}
	resp, err := t.RoundTripper.RoundTrip(req)
	if err != nil {
		e.last.Store(lost(err))
		return nil, err
	}
	o := &outcome{status: resp.StatusCode}
	if o.failed() {
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n >= 0 {
			o.retryAfter = strconv.Itoa(n)
		}
		o.message = message(resp)
	}
	e.last.Store(o)
	return resp, nil
}

// message is the first error of a registry's answer, which still can be read.
func message(resp *http.Response) string {
	head, _ := io.ReadAll(io.LimitReader(resp.Body, peek))
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(head, &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	text := []rune(body.Errors[0].Code + ": " + body.Errors[0].Message)
	return string(text[:min(len(text), longest)])
}
