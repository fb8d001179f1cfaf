// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
)

const (
	// scheme is the scheme of the remote URLs of distribution's apps.
	scheme = "registry-cache"
	// writeLimit is distribution's time limit for writing a blob. It is effectively disabled, since stalled transfers
	// are ended elsewhere.
	writeLimit = 30 * 24 * time.Hour
)

// dispatcher routes the requests of distribution's apps to their upstreams. It is global, since distribution's client
// uses the default transport of the process.
var dispatcher = struct {
	once sync.Once
	last atomic.Int64
	apps sync.Map // *app, by the host of its remote URL
}{}

// defaultTransport is the transport that distribution uses, read before anything can replace it. A replacement that
// passes requests on to it still works.
var defaultTransport, _ = http.DefaultTransport.(*http.Transport)

// schemeTransport is the transport for the scheme of distribution's apps.
type schemeTransport struct{}

// RoundTrip passes a request to its app.
func (schemeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	a, ok := dispatcher.apps.Load(req.URL.Host)
	if !ok {
		return nil, errClosed
	}
	return a.(*app).answer(req)
}

// app is distribution's app for one upstream.
type app struct {
	id      string
	handler *handlers.App
}

// newApp creates distribution's app for an upstream.
func newApp(u *Upstream) (a *app, err error) {
	if defaultTransport == nil {
		return nil, errors.New("http.DefaultTransport is not an *http.Transport")
	}
	dispatcher.once.Do(func() { defaultTransport.RegisterProtocol(scheme, schemeTransport{}) })
	a = &app{id: "upstream-" + strconv.FormatInt(dispatcher.last.Add(1), 10)}
	dispatcher.apps.Store(a.id, a)
	defer func() {
		if p := recover(); p != nil { // distribution panics on a wrong configuration
			dispatcher.apps.Delete(a.id)
			err = fmt.Errorf("upstream %s: distribution: %v", u.name, p)
		}
	}()
	a.handler = handlers.NewApp(context.Background(), a.configuration(u))
	return a, nil
}

// configuration returns the configuration of an app that keeps content until the store evicts it. Distribution's
// metrics, health checks and notifications are disabled by default.
func (a *app) configuration(u *Upstream) *configuration.Configuration {
	forever, long := time.Duration(0), writeLimit
	c := &configuration.Configuration{
		Version: configuration.MajorMinorVersion(0, 1),
		Storage: u.store.Configuration(),
		Proxy:   configuration.Proxy{RemoteURL: scheme + "://" + a.id, TTL: &forever, CacheWriteTimeout: &long},
	}
	c.Log.AccessLog.Disabled = true
	c.Validation.Disabled = true // the cache must serve whatever the upstream has accepted
	return c
}

// close shuts down the app.
func (a *app) close() error {
	dispatcher.apps.Delete(a.id)
	return a.handler.Shutdown()
}

// A source answers the requests to the upstream that distribution sends during one call of serve.
type source interface {
	answer(req *http.Request) (*http.Response, error)
}

type sourceKey struct{}

// serve makes distribution serve a path, with s as the upstream.
func (a *app) serve(ctx context.Context, w http.ResponseWriter, path string, header http.Header, s source) (err error) {
	req, err := http.NewRequestWithContext(context.WithValue(ctx, sourceKey{}, s), http.MethodGet, "http://cache"+path, nil)
	if err != nil {
		return err
	}
	req.Header, req.RequestURI, req.RemoteAddr = header, path, "127.0.0.1:0"
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("distribution: %v", p)
		}
	}()
	a.handler.ServeHTTP(w, req)
	return nil
}

// answer answers a request from distribution. It answers /v2/ like an upstream without authentication, so that
// distribution does not log in.
func (a *app) answer(req *http.Request) (*http.Response, error) {
	if req.URL.Path == "/v2/" {
		return reply(req, http.StatusOK, http.Header{}, nil), nil
	}
	s, ok := req.Context().Value(sourceKey{}).(source)
	if !ok {
		return nil, errors.New("distribution sent a request outside of a call")
	}
	return s.answer(req)
}

// reply returns a response to distribution.
func reply(req *http.Request, status int, header http.Header, content []byte) *http.Response {
	resp := &http.Response{
		Status: http.StatusText(status), StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: http.NoBody, ContentLength: int64(len(content)), Request: req,
	}
	if req.Method != http.MethodHead {
		resp.Body = io.NopCloser(bytes.NewReader(content))
	}
	return resp
}

// replyError returns a response to distribution with the upstream's status, or an error if the upstream did not
// respond.
func replyError(req *http.Request, f *requestError) (*http.Response, error) {
	if !f.answered() || f.status < http.StatusBadRequest {
		return nil, f
	}
	return reply(req, f.status, http.Header{}, nil), nil
}

// recorder records a response of distribution in memory, if there is room for it.
type recorder struct {
	reserve func(bytes int64) error
	full    error // set if there is no room
	head    http.Header
	status  int
	body    bytes.Buffer
}

func newRecorder(reserve func(int64) error) *recorder {
	return &recorder{reserve: reserve, head: http.Header{}}
}

// Header returns the response header.
func (r *recorder) Header() http.Header { return r.head }

// Flush does nothing. Distribution's writers call it.
func (r *recorder) Flush() {}

// WriteHeader records the first status.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

// Write records bytes of the body.
func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if r.full == nil {
		r.full = r.reserve(int64(r.body.Len() + len(p)))
	}
	if r.full != nil {
		return 0, r.full
	}
	return r.body.Write(p)
}
