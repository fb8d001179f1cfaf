// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// realm is the challenge in a 401.
const realm = `Basic realm="registry-cache"`

// retryAfter is the default of Retry-After.
const retryAfter = 2 * time.Second

// codes maps statuses to their default error code of the OCI distribution specification.
var codes = map[int]string{
	http.StatusUnauthorized: "UNAUTHORIZED", http.StatusForbidden: "DENIED", http.StatusNotFound: "UNSUPPORTED",
	http.StatusMethodNotAllowed: "UNSUPPORTED", http.StatusTooManyRequests: "TOOMANYREQUESTS",
	http.StatusBadGateway: "UNAVAILABLE", http.StatusServiceUnavailable: "UNAVAILABLE", http.StatusGatewayTimeout: "UNAVAILABLE",
}

// WriteError writes an error response of the OCI distribution specification. If code is empty, it uses the default code
// for the status. It adds a challenge to a 401, and a Retry-After to a 429 and to 502 to 504 unless the header has one.
func WriteError(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	if code == "" {
		if code = codes[status]; code == "" {
			code = "UNKNOWN"
		}
	}
	h := w.Header()
	// Remove headers that the handler has set for the content that it could not send.
	for _, name := range []string{"Content-Range", "Content-Encoding", "Etag", "Last-Modified", "Cache-Control", "Docker-Content-Digest"} {
		h.Del(name)
	}
	body := errorBody(code, message)
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Docker-Distribution-Api-Version", "registry/2.0")
	switch status {
	case http.StatusUnauthorized:
		h.Set("Www-Authenticate", realm)
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if h.Get("Retry-After") == "" {
			setRetryAfter(h, retryAfter)
		}
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // fails only if the client has disconnected
	}
}

// setRetryAfter sets Retry-After in whole seconds, at least 1.
func setRetryAfter(h http.Header, after time.Duration) {
	h.Set("Retry-After", strconv.FormatInt(max(1, int64((after+time.Second-1)/time.Second)), 10))
}

// errorBody returns the JSON body for one error.
func errorBody(code, message string) []byte {
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(map[string][]item{"errors": {{code, message}}})
	if err != nil {
		return []byte(`{"errors":[]}`) // cannot happen: strings always encode
	}
	return append(body, '\n')
}
