// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"io"
	"net/http"
)

// response remembers what was answered. It passes ReadFrom on, by which files are sent without a copy.
type response struct {
	http.ResponseWriter
	status int // 0 until an answer has begun
	bytes  int64
}

func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(b []byte) (int, error) {
	w.begin()
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

func (w *response) ReadFrom(r io.Reader) (int64, error) {
	w.begin()
	to, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	n, err := to.ReadFrom(r)
	w.bytes += n
	return n, err
}

// Flush sends what was written so far.
func (w *response) Flush() {
	w.begin()
	_ = http.NewResponseController(w.ResponseWriter).Flush() // not supported: nothing was kept back
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) begin() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
}
