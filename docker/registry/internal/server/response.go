// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"io"
	"net/http"
	"time"
)

// response records the status and size of a response. It forwards ReadFrom, so that files are sent with sendfile.
type response struct {
	http.ResponseWriter
	begun  time.Time
	first  time.Duration // time from start to the beginning of the response
	status int           // 0 before the response has begun
	bytes  int64         // of the body
	probe  bool
}

// WriteHeader records and writes the status.
func (w *response) WriteHeader(status int) {
	if status >= 200 {
		w.begin(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write writes and counts bytes of the body.
func (w *response) Write(b []byte) (int, error) {
	w.begin(http.StatusOK)
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom sends and counts the content of a reader.
func (w *response) ReadFrom(r io.Reader) (int64, error) {
	w.begin(http.StatusOK)
	to, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	n, err := to.ReadFrom(r)
	w.bytes += n
	return n, err
}

// Flush sends buffered bytes.
func (w *response) Flush() {
	w.begin(http.StatusOK)
	_ = http.NewResponseController(w.ResponseWriter).Flush() // if it is not supported, nothing is buffered
}

// Unwrap returns the wrapped response for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// begin records the first status and when it was written.
func (w *response) begin(status int) {
	if w.status == 0 {
		w.status, w.first = status, time.Since(w.begun)
	}
}
