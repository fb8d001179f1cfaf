// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"pullthrough.registry_cache/docker/registry/internal/store"
)

// partBufferSize is how much of a part of several ranges is copied at a time.
const partBufferSize = 32 << 10

// growingResponse is a response with what a reader has so far: nothing that has come waits in a buffer for what has not. It remembers
// why the content ended early, since http.ServeContent does not say.
type growingResponse struct {
	http.ResponseWriter
	reader *store.Reader
	err    error
}

// ReadFrom sends what is in a file by the kernel.
func (t *growingResponse) ReadFrom(from io.Reader) (n int64, err error) {
	control := http.NewResponseController(t.ResponseWriter)
	_ = control.Flush() // the header; not supported: nothing was kept back
	if limited, ok := from.(*io.LimitedReader); ok && limited.R == io.Reader(t.reader) {
		n, err = t.reader.CopyN(t.ResponseWriter, limited.N)
		limited.N -= n
		t.err = err
		return n, err
	}
	buffer := make([]byte, partBufferSize)
	for {
		k, err := from.Read(buffer)
		if k > 0 {
			m, err := t.ResponseWriter.Write(buffer[:k])
			n += int64(m)
			if err != nil {
				return n, err
			}
			_ = control.Flush()
		}
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			t.err = err
			return n, err
		}
	}
}

// Unwrap is for http.ResponseController.
func (t *growingResponse) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// fileResponse is a response with a stored file, which the kernel sends. It remembers that the content ended early, since
// http.ServeContent does not say.
type fileResponse struct {
	http.ResponseWriter
	early bool
}

func (f *fileResponse) ReadFrom(from io.Reader) (int64, error) {
	n, err := io.Copy(f.ResponseWriter, from)
	limited, ok := from.(*io.LimitedReader)
	f.early = err != nil || ok && limited.N > 0
	return n, err
}

// Unwrap is for http.ResponseController.
func (f *fileResponse) Unwrap() http.ResponseWriter { return f.ResponseWriter }

// rangeErrorResponse is an error's response that says how long the content is. server.WriteError drops what was set before.
type rangeErrorResponse struct {
	http.ResponseWriter
	size int64
}

func (u rangeErrorResponse) WriteHeader(status int) {
	u.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", u.size))
	u.ResponseWriter.WriteHeader(status)
}
