// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/server"
)

const (
	// writeGrace plus the size divided by writeRate (in bytes per second) is how long a client may take to receive a
	// large answer, which stays in memory until then.
	writeGrace = 30 * time.Second
	writeRate  = 64 << 10
)

// An Answer is the response of an upstream or another replica to a request. It must not be changed after it was
// returned.
type Answer struct {
	// Status is the HTTP status for clients of this cache (see docs/usage/behaviour.md, "Protocol").
	Status int
	// Header is the upstream's header. Only Content-Type, Docker-Content-Digest, Link, OCI-Filters-Applied and
	// Retry-After are used.
	Header http.Header
	// Body is the body of a 200, as the upstream sent it.
	Body []byte
	// Code and Message are the code and message of an error, as defined in the specification.
	Code, Message string
	// Stale reports that the upstream is down, and this is its last known answer.
	Stale bool
	// Known reports that another replica had the answer in its cache.
	Known bool
	// Age is the time since the upstream gave the answer. It shortens how long the answer is used.
	Age time.Duration

	mediaType string
	digest    digest.Digest // of a manifest
	next      string        // query for the next page
	filtered  string        // OCI-Filters-Applied
	lease     *lease
	ownError  bool // a failure of this cache, which says nothing about the content
}

// A Result is the result of a client's request, for metrics.
type Result string

// Results of requests.
const (
	Hit        Result = "hit"    // from memory or the store
	Miss       Result = "miss"   // from the upstream
	Shared     Result = "shared" // from a check that another client started
	Stale      Result = "stale"  // last known answer, since the upstream is down
	Absent     Result = "absent" // 404
	Failed     Result = "error"
	ClientGone Result = "left" // the client has disconnected
)

// Values of Cache-Status (RFC 9211) and Warning (RFC 7234) for stale answers.
const (
	staleStatus  = "registry-cache; hit; detail=stale"
	staleWarning = `110 - "Response is Stale"`
)

var cacheStatus = map[Result][]string{
	Hit: {"registry-cache; hit"}, Miss: {"registry-cache; fwd=request"}, Shared: {"registry-cache; fwd=request; collapsed"},
	Stale: {staleStatus},
}

var registryVersion = []string{"registry/2.0"}

// errorAnswer returns an answer with an error as defined in the specification.
func errorAnswer(status int, code, message string) *Answer {
	return &Answer{Status: status, Code: code, Message: message}
}

// timeoutAnswer returns the answer for an upstream that does not respond in time.
func timeoutAnswer() *Answer {
	return errorAnswer(http.StatusGatewayTimeout, "UNAVAILABLE", "the upstream did not respond in time")
}

// busyAnswer returns the answer if too many requests are waiting for the upstream.
func busyAnswer() *Answer {
	a := errorAnswer(http.StatusServiceUnavailable, "UNAVAILABLE", "too many requests are waiting for the upstream")
	a.ownError = true
	return a
}

// closedAnswer returns the answer if the Handler is closed.
func closedAnswer() *Answer {
	return errorAnswer(http.StatusServiceUnavailable, "UNAVAILABLE", "this replica is shutting down")
}

// failedAnswer returns the answer if a request to the upstream has failed.
func failedAnswer(err error) *Answer {
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return timeoutAnswer()
	}
	return errorAnswer(http.StatusBadGateway, "UNAVAILABLE", "the upstream cannot be reached")
}

// noRoomAnswer returns the answer if the upstream's answer does not fit in memory.
func noRoomAnswer() *Answer {
	a := errorAnswer(http.StatusServiceUnavailable, "UNAVAILABLE", "too many large responses are being sent")
	a.ownError = true
	return a
}

// Release releases an answer of Get. Call it if the answer is not written.
func (a *Answer) Release() {
	if a != nil {
		a.lease.release()
	}
}

// isOK reports whether the status is 200.
func (a *Answer) isOK() bool { return a.Status == http.StatusOK }

// isOutage reports whether the answer is an upstream error that says nothing about the content.
func (a *Answer) isOutage() bool {
	return a.Status >= http.StatusInternalServerError || a.Status == http.StatusTooManyRequests
}

// withAge returns a copy of the answer with another age.
func (a *Answer) withAge(age time.Duration) *Answer {
	other := *a
	other.Age = max(0, age)
	return &other
}

// asStale returns a stale copy of the answer with another age.
func (a *Answer) asStale(age time.Duration) *Answer {
	other := a.withAge(age)
	other.Stale = true
	return other
}

// Write sends an answer of Get to a client and releases it. The Age header is in whole seconds; other replicas get the
// exact age.
func (a *Answer) Write(w http.ResponseWriter, r *http.Request, req route.Request, result Result) {
	defer a.Release()
	h := w.Header()
	if age := int64(a.Age / time.Second); age > 0 {
		h.Set("Age", strconv.FormatInt(age, 10))
	}
	if !a.isOK() {
		if after := a.Header.Get("Retry-After"); after != "" {
			h.Set("Retry-After", after)
		}
		server.WriteError(w, r, a.Status, a.Code, a.Message)
		return
	}
	h["Docker-Distribution-Api-Version"] = registryVersion
	if status := cacheStatus[result]; status != nil {
		h["Cache-Status"] = status
	}
	if a.Stale {
		h.Set("Warning", staleWarning)
	}
	if a.digest != "" {
		values := []string{string(a.digest), `"` + string(a.digest) + `"`}
		h["Docker-Content-Digest"], h["Etag"] = values[:1:1], values[1:]
		if matchesETag(r.Header["If-None-Match"], string(a.digest)) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	if a.next != "" {
		h.Set("Link", link(req, a.next, r.URL.Query()["ns"]))
	}
	if a.filtered != "" {
		h.Set("OCI-Filters-Applied", a.filtered)
	}
	values := []string{a.mediaType, strconv.Itoa(len(a.Body))}
	h["Content-Type"], h["Content-Length"] = values[:1:1], values[1:]
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	if len(a.Body) > smallAnswer {
		c := http.NewResponseController(w)
		took := writeGrace + time.Duration(len(a.Body)/writeRate)*time.Second
		_ = c.SetWriteDeadline(time.Now().Add(took)) // if it is not supported, the server's deadline applies
		defer func() { _ = c.SetWriteDeadline(time.Time{}) }()
	}
	_, _ = w.Write(a.Body) // fails only if the client has disconnected
}

// matchesETag reports whether If-None-Match fields include an ETag.
func matchesETag(fields []string, tag string) bool {
	for _, field := range fields {
		for field != "" {
			var one string
			one, field = cutUnquoted(field, ',')
			one = strings.TrimPrefix(strings.TrimSpace(one), "W/")
			if one == "*" || strings.Trim(one, `"`) == tag {
				return true
			}
		}
	}
	return false
}
