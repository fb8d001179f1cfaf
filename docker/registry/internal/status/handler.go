// SPDX-License-Identifier: GPL-3.0-or-later

package status

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
)

// retryAfter is the number of seconds after which it makes sense to ask again, unless the upstream names another.
const retryAfter = "2"

// Stale is the Warning of a tag as it was known last.
const Stale = `110 - "Response is Stale"`

// Handler answers in the terms of the OCI distribution specification what the registry in proxy mode does not.
func Handler(config *configuration.Configuration, next http.Handler) http.Handler {
	if config.Proxy.RemoteURL == "" {
		return next
	}
	host := config.Proxy.RemoteURL
	if remote, err := url.Parse(host); err == nil {
		host = remote.Host
	}
	credential := config.Proxy.Exec != nil || config.Proxy.Username != ""
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v2/") {
			next.ServeHTTP(w, r)
			return
		}
		kind, reference := path.Base(path.Dir(r.URL.Path)), path.Base(r.URL.Path)
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			serve(w, http.StatusMethodNotAllowed, errcode.ErrorCodeUnsupported.WithMessage("This cache is read-only"))
			return
		case r.URL.Path == "/v2/_catalog":
			// It would list what this replica happens to hold.
			serve(w, http.StatusNotFound, unknown(r.URL.Path))
			return
		case kind == "blobs" || kind == "manifests" && strings.Contains(reference, ":"):
			if _, err := digest.Parse(reference); err != nil {
				serve(w, http.StatusBadRequest, errcode.ErrorCodeDigestInvalid.WithMessage(err.Error()))
				return
			}
		case kind == "tags" && r.Method == http.MethodHead:
			// The server sends no body of an answer to HEAD.
			r = r.Clone(r.Context())
			r.Method = http.MethodGet
		}
		e := &exchange{credential: credential}
		r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, e))
		next.ServeHTTP(&writer{ResponseWriter: w, exchange: e, host: host, path: r.URL.Path}, r)
	})
}

// unknown is what a 404 of a path means.
func unknown(p string) errcode.Error {
	switch path.Base(path.Dir(p)) {
	case "manifests":
		return errcode.ErrorCodeManifestUnknown.WithMessage("")
	case "blobs":
		return errcode.ErrorCodeBlobUnknown.WithMessage("")
	case "tags":
		return errcode.ErrorCodeNameUnknown.WithMessage("")
	}
	// Not NAME_UNKNOWN: clients that ask for referrers would not fall back to the tag.
	return errcode.ErrorCodeUnsupported.WithMessage("This cache has no such endpoint")
}

func serve(w http.ResponseWriter, status int, err errcode.Error) {
	if err.Message == "" {
		err.Message = err.Code.Message()
	}
	for _, name := range []string{"Content-Length", "X-Content-Type-Options"} {
		w.Header().Del(name)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(errcode.Errors{err})
}

// writer puts the upstream's error in the place of the registry's.
type writer struct {
	http.ResponseWriter
	exchange *exchange
	host     string // of the upstream
	path     string
	begun    bool
	replaced bool
}

func (w *writer) WriteHeader(status int) {
	w.begun = true
	last := w.exchange.last.Load()
	if last != nil && strings.Contains(w.path, "/manifests/") && status < http.StatusBadRequest {
		// In the words of RFC 9211, and of RFC 7234 for people. A manifest by digest is never stale.
		if last.failed() {
			w.Header().Set("Cache-Status", "registry-cache; hit; detail=stale")
			w.Header().Set("Warning", Stale)
		} else {
			w.Header().Set("Cache-Status", "registry-cache; fwd=request")
		}
	}
	switch {
	case status >= http.StatusBadRequest && last != nil && last.failed():
		w.replaced = true
		w.fail(last)
	case status == http.StatusNotFound && w.Header().Get("Content-Type") != "application/json":
		w.replaced = true
		serve(w.ResponseWriter, status, unknown(w.path))
	default:
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *writer) Write(p []byte) (int, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	if w.replaced {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// Flush is called by the registry's own writer, which asks for this very method.
func (w *writer) Flush() {
	if !w.replaced {
		_ = http.NewResponseController(w.ResponseWriter).Flush()
	}
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// fail answers what the upstream answered, where it concerns the client, and else that the upstream does not serve.
func (w *writer) fail(last *outcome) {
	status, err := http.StatusBadGateway, errcode.ErrorCodeUnavailable.WithMessage("The upstream cannot be reached")
	switch {
	case last.timeout, last.status == 0 && isSilent(w.host):
		status, err.Message = http.StatusGatewayTimeout, "The upstream does not answer"
	case last.status == 0:
	case last.status == http.StatusForbidden && w.exchange.credential && w.exchange.anonymous.Load():
		status, err.Message = http.StatusServiceUnavailable, "This cache has no credential for the upstream"
	case last.status == http.StatusUnauthorized:
		status, err.Message = http.StatusServiceUnavailable, "The upstream refuses the credential of this cache"
	case last.status == http.StatusForbidden:
		status, err = last.status, errcode.ErrorCodeDenied.WithMessage("The upstream does not let this cache read the repository")
	case last.status == http.StatusTooManyRequests:
		status, err = last.status, errcode.ErrorCodeTooManyRequests.WithMessage("The upstream's quota is used up")
	case last.status == http.StatusServiceUnavailable:
		status, err.Message = last.status, "The upstream is not available"
	case last.status >= http.StatusInternalServerError:
		err.Message = fmt.Sprintf("The upstream answers %d", last.status)
	default:
		status, err = http.StatusNotFound, unknown(w.path)
	}
	if status == http.StatusTooManyRequests || status > http.StatusInternalServerError {
		seconds := last.retryAfter
		if seconds == "" {
			seconds = retryAfter
		}
		w.Header().Set("Retry-After", seconds)
	}
	if status != http.StatusNotFound {
		logrus.WithFields(logrus.Fields{"path": w.path, "upstream": last.status, "message": last.message}).Warn(err.Message)
	}
	serve(w.ResponseWriter, status, err)
}
