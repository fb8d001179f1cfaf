// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// realm names the cache in the challenge of a 401.
const realm = `Basic realm="registry-cache"`

// retryAfter is when it makes sense to ask again, unless the answer names another time.
const retryAfter = 2 * time.Second

// codes are those of the OCI distribution specification for statuses that mean the same everywhere.
var codes = map[int]string{
	http.StatusUnauthorized: "UNAUTHORIZED", http.StatusForbidden: "DENIED", http.StatusNotFound: "UNSUPPORTED",
	http.StatusMethodNotAllowed: "UNSUPPORTED", http.StatusTooManyRequests: "TOOMANYREQUESTS",
	http.StatusBadGateway: "UNAVAILABLE", http.StatusServiceUnavailable: "UNAVAILABLE", http.StatusGatewayTimeout: "UNAVAILABLE",
}

// WriteError answers with an error body of the specification. An empty code is the status's own. A 401 gets a challenge;
// 429 and 502 to 504 get a Retry-After unless the header has one.
func WriteError(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	if code == "" {
		if code = codes[status]; code == "" {
			code = "UNKNOWN"
		}
	}
	h := w.Header()
	// What a handler has set for the content that it could not send.
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
		_, _ = w.Write(body) // the client has gone: nobody is left to hear of it
	}
}

// setRetryAfter sets a time in whole seconds, at least one.
func setRetryAfter(h http.Header, after time.Duration) {
	h.Set("Retry-After", strconv.FormatInt(max(1, int64((after+time.Second-1)/time.Second)), 10))
}

// errorBody returns the JSON of one error.
func errorBody(code, message string) []byte {
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(map[string][]item{"errors": {{code, message}}})
	if err != nil {
		return []byte(`{"errors":[]}`) // never: the strings are made valid UTF-8
	}
	return append(body, '\n')
}
