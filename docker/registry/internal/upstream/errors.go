// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

// retryAfter is the default of Retry-After if the upstream sends none.
const retryAfter = 2 * time.Second

// An Error is an error response to a client. Its message does not contain text from the upstream.
type Error struct {
	route.StatusError
	RetryAfter time.Duration // 0 if there is none
	// Upstream is the upstream's status, or 0 if it did not respond.
	Upstream int
	// Detail is the cause, for the log only.
	Detail string
}

// Error returns the message and the detail.
func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Message
	}
	return e.Message + ": " + e.Detail
}

// Unwrap returns the status, code and message.
func (e *Error) Unwrap() error { return &e.StatusError }

// Timeout reports whether the upstream was silent for too long.
func (e *Error) Timeout() bool { return e.Status == http.StatusGatewayTimeout }

// Header returns the headers for the client: Retry-After, in seconds, if a retry may succeed.
func (e *Error) Header() http.Header {
	h := http.Header{}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10))
	}
	return h
}

// requestError is the error of a failed request to the upstream.
type requestError struct {
	status    int // the upstream's status; 0 if there was no response
	timeout   bool
	invalid   bool // the response is not valid
	cut       bool // the response ended early
	sizeless  bool // the response lacks the size of a blob
	full      bool // there is no room in memory for the response
	anonymous bool // the credential helper failed, so the request had no credential
	after     time.Duration
	message   string // for the log
}

// Error returns the status, if any, and the message.
func (e *requestError) Error() string {
	switch {
	case e.status != 0 && e.message != "":
		return fmt.Sprintf("status %d: %s", e.status, e.message)
	case e.status != 0:
		return fmt.Sprintf("status %d", e.status)
	}
	return e.message
}

// answered reports whether the upstream responded with an error status.
func (e *requestError) answered() bool { return e.status != 0 }

// asRequestError returns the requestError in an error. It treats any other error as a missing response.
func asRequestError(err error) *requestError {
	var f *requestError
	if errors.As(err, &f) {
		return f
	}
	return &requestError{message: err.Error()}
}

// newError returns the error for a client after a failed request.
func newError(kind route.Kind, f *requestError) *Error {
	e := &Error{
		StatusError: route.StatusError{Status: http.StatusBadGateway, Code: "UNAVAILABLE"},
		Upstream:    f.status, Detail: f.Error(), RetryAfter: f.after,
	}
	switch {
	case f.invalid:
		e.Code, e.Message = "UPSTREAM_INVALID", "the upstream's response is not valid"
	case f.sizeless:
		e.Code, e.Message = "UPSTREAM_INVALID", "the upstream does not send the length of the blob, which this cache requires"
	case f.full:
		e.Status, e.Message = http.StatusServiceUnavailable, "there is no room in memory for the upstream's response"
	case f.cut:
		e.Message = "the upstream's response ended early"
	case f.timeout:
		e.Status, e.Message = http.StatusGatewayTimeout, "the upstream did not respond in time"
	case f.status == 0:
		e.Message = "the upstream cannot be reached"
	case f.status == http.StatusUnauthorized, f.status == http.StatusForbidden && f.anonymous:
		// The cache's credential is renewed every few minutes, so a retry may succeed. A 401 would blame the client's
		// credential.
		e.Status, e.Message = http.StatusServiceUnavailable, "the upstream refuses the credential of this cache"
		if f.anonymous {
			e.Message = "this cache has no credential for the upstream"
		}
	case f.status == http.StatusForbidden:
		e.Status, e.Code, e.Message = f.status, "DENIED", "the upstream does not let this cache read the repository"
	case f.status == http.StatusTooManyRequests:
		e.Status, e.Code, e.Message = f.status, "TOOMANYREQUESTS", "the upstream's quota is exhausted"
	case f.status == http.StatusServiceUnavailable:
		e.Status, e.Message = f.status, "the upstream is unavailable"
	case f.status >= http.StatusBadRequest && f.status < http.StatusInternalServerError:
		e.Status, e.Code, e.Message = http.StatusNotFound, notFoundCode(kind), "the upstream does not have it"
	default:
		e.Message = fmt.Sprintf("the upstream responded with status %d", f.status)
	}
	switch {
	case e.Status < http.StatusInternalServerError && e.Status != http.StatusTooManyRequests:
		e.RetryAfter = 0
	case e.RetryAfter == 0:
		e.RetryAfter = retryAfter
	}
	return e
}

// notFoundCode returns the specification's error code for missing content.
func notFoundCode(kind route.Kind) string {
	switch kind {
	case route.Manifest:
		return "MANIFEST_UNKNOWN"
	case route.Blob:
		return "BLOB_UNKNOWN"
	case route.Tags:
		return "NAME_UNKNOWN"
	}
	return "UNSUPPORTED" // referrers: with NAME_UNKNOWN, clients would not fall back to the tag
}
