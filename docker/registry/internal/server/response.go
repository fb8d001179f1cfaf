// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"io"
	"net/http"
	"time"
)

// response records the status and the size of an answer. It passes on ReadFrom, by which files are sent without a copy.
type response struct {
	http.ResponseWriter
	begun  time.Time
	first  time.Duration // from then until the answer has begun
	status int           // 0 until then
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

// ReadFrom writes and counts the content of a reader.
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

// Flush sends the part that was written so far.
func (w *response) Flush() {
	w.begin(http.StatusOK)
	_ = http.NewResponseController(w.ResponseWriter).Flush() // not supported: nothing was kept back
}

// Unwrap returns the wrapped response for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// begin records the first status and its time.
func (w *response) begin(status int) {
	if w.status == 0 {
		w.status, w.first = status, time.Since(w.begun)
	}
}
