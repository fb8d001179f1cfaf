// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"io"
	"net/http"
	"strconv"

	"pullthrough.registry_cache/docker/registry/internal/server"
)

// smallLimit is the maximum size of an answer that is kept in memory to hash it, in bytes. The largest list has 16 MiB.
const smallLimit = 17 << 20

// provenResponse adds a proof to a response. Blobs are sent as the handler writes them. Small bodies are sent when they
// are complete, which is when the handler has written the whole body in one call, or has returned.
type provenResponse struct {
	http.ResponseWriter
	head    bool
	uri, by string
	hop     hop
	key     string

	status  int // 0 before the answer has started
	stream  bool
	tooLong bool
	sent    bool // the complete answer has been sent
	body    []byte
}

// WriteHeader records the status. For a blob, it sends the header.
func (w *provenResponse) WriteHeader(status int) {
	switch {
	case status < http.StatusOK:
		w.ResponseWriter.WriteHeader(status)
		return
	case w.status != 0:
		return
	}
	w.status = status
	if w.stream = isStream(w.uri, status); !w.stream {
		return
	}
	w.addProof(byDigest)
	w.ResponseWriter.WriteHeader(status)
	if w.Header().Get("Content-Length") == "" && !w.head {
		w.Flush() // otherwise net/http would add the length of a short body, which the proof does not cover
	}
}

// Write sends bytes of a blob, or buffers bytes of a small body.
func (w *provenResponse) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK) // no effect if the answer has started
	switch {
	case w.head, w.sent:
	case w.stream:
		return w.ResponseWriter.Write(b)
	case w.body == nil && len(b) > 0 && len(b) <= smallLimit && w.Header().Get("Content-Length") == strconv.Itoa(len(b)):
		w.send(b) // complete, so it need not be buffered
	case len(w.body)+len(b) > smallLimit:
		w.body, w.tooLong = nil, true
	case !w.tooLong:
		w.body = append(w.body, b...)
	}
	return len(b), nil
}

// ReadFrom sends a body, with sendfile if it is in a file.
func (w *provenResponse) ReadFrom(r io.Reader) (int64, error) {
	w.WriteHeader(http.StatusOK) // no effect if the answer has started
	if to, ok := w.ResponseWriter.(io.ReaderFrom); ok && w.stream && !w.head {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{w}, r)
}

// Flush sends the buffered bytes of a blob.
func (w *provenResponse) Flush() {
	if w.stream {
		_ = http.NewResponseController(w.ResponseWriter).Flush() // if it is not supported, nothing is buffered
	}
}

// Unwrap returns the wrapped response for http.ResponseController.
func (w *provenResponse) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// finish sends a small answer. It must not be called after a panic, so that an incomplete answer gets no proof.
func (w *provenResponse) finish(r *http.Request) {
	if w.status == 0 || w.stream || w.sent {
		return
	}
	if w.tooLong {
		w.tooLong, w.status = false, 0
		server.WriteError(w, r, http.StatusInternalServerError, "", "the answer is too long for another replica")
		return
	}
	w.send(w.body)
}

// send sends a small answer whose body is complete.
func (w *provenResponse) send(body []byte) {
	w.sent = true
	h := w.Header()
	switch {
	case w.status == http.StatusNoContent || w.status == http.StatusNotModified:
		body = nil
		h.Del("Content-Type") // net/http omits both
		h.Del("Content-Length")
	case !w.head:
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.addProof(hashHex(body))
	w.ResponseWriter.WriteHeader(w.status)
	if len(body) > 0 {
		_, _ = w.ResponseWriter.Write(body) // fails only if the caller has disconnected
	}
}

// addProof adds the proof to the header.
func (w *provenResponse) addProof(body string) {
	h := w.Header()
	if h.Get("Content-Type") == "" {
		h["Content-Type"] = nil // keeps net/http from guessing one
	}
	p := proof{version: w.hop.version, body: body}
	p.mac = computeMAC(w.key, p.signedParts(w.by, w.hop.nonce, w.status, h)...)
	h.Set(proofHeader, p.String())
}
