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
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
	credential bool // the registry has one for the upstream
	last       atomic.Pointer[outcome]
	anonymous  atomic.Bool // a token was asked for without a credential
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

// Limits are how long the upstream may take to begin an answer. Without them one that hangs blocks every request: the
// registry asks for its challenge under a lock, by a request that nothing ends.
type Limits struct {
	Challenge time.Duration
	Manifest  time.Duration // also a token and a list of tags; a tag that is stored is served afterwards
	Blob      time.Duration
}

// remember is how long an upstream that was silent is not asked for its challenge again: those who wait for the lock would
// each wait for the limit in turn.
const remember = 3 * time.Second

// silent has, for each host that was silent, the time.Time until which it is not asked for its challenge.
var silent sync.Map

func isSilent(host string) bool {
	until, ok := silent.Load(host)
	return ok && time.Now().Before(until.(time.Time))
}

// Transport asks the upstream by way of another transport.
type Transport struct {
	http.RoundTripper
	Limits
}

// RoundTrip notes the answer in the request's context.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	e := of(req.Context())
	if e == nil {
		return t.ask(req)
	}
	if req.Header.Get("Authorization") == "" && req.URL.Query().Has("scope") {
		e.anonymous.Store(true)
		if e.credential {
			noCredential.Inc()
		}
	}
	resp, err := t.ask(req)
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

// ask fails with os.ErrDeadlineExceeded where no answer begins within the limit.
func (t *Transport) ask(req *http.Request) (*http.Response, error) {
	limit, kind := t.Manifest, kindOf(req)
	switch kind {
	case "challenge":
		limit = t.Challenge
		if isSilent(req.URL.Host) {
			return nil, os.ErrDeadlineExceeded
		}
	case "blob":
		limit = t.Blob
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(limit, func() { cancel(os.ErrDeadlineExceeded) })
	begun := time.Now()
	resp, err := t.RoundTripper.RoundTrip(req.WithContext(ctx))
	timer.Stop()
	latency.WithLabelValues(kind).Observe(time.Since(begun).Seconds())
	if err != nil {
		defer cancel(nil)
		switch context.Cause(ctx) {
		case os.ErrDeadlineExceeded:
			asked.WithLabelValues(kind, "timeout").Inc()
		case nil:
			asked.WithLabelValues(kind, "unreachable").Inc()
			return nil, err
		default:
			asked.WithLabelValues(kind, "canceled").Inc()
			return nil, err
		}
		if kind == "challenge" {
			silent.Store(req.URL.Host, time.Now().Add(remember))
		}
		return nil, os.ErrDeadlineExceeded
	}
	asked.WithLabelValues(kind, strconv.Itoa(resp.StatusCode)).Inc()
	resp.Body = body{resp.Body, cancel, received.WithLabelValues(kind)}
	return resp, nil
}

// body counts what is read, and ends its request's context when it is closed.
type body struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
	bytes  prometheus.Counter
}

func (b body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(float64(n))
	return n, err
}

func (b body) Close() error {
	defer b.cancel(nil)
	return b.ReadCloser.Close()
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
