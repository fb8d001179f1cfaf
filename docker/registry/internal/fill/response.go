// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"pullthrough.registry_cache/docker/registry/internal/store"
)

// partBufferSize is the buffer size for copying one of several ranges, in bytes.
const partBufferSize = 32 << 10

// growingResponse sends bytes as soon as its reader has them, without waiting for a buffer to fill. It records why the
// content ended early, since http.ServeContent does not return errors.
type growingResponse struct {
	http.ResponseWriter
	reader *store.Reader
	err    error
}

// ReadFrom sends the content, with sendfile if it is in a file.
func (t *growingResponse) ReadFrom(from io.Reader) (n int64, err error) {
	control := http.NewResponseController(t.ResponseWriter)
	_ = control.Flush() // sends the header; if it is not supported, nothing is buffered
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

// Unwrap returns the wrapped response for http.ResponseController.
func (t *growingResponse) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// fileResponse sends a stored file with sendfile. It records whether the content ended early, since http.ServeContent
// does not return errors.
type fileResponse struct {
	http.ResponseWriter
	early bool
}

// ReadFrom sends the content.
func (f *fileResponse) ReadFrom(from io.Reader) (int64, error) {
	n, err := io.Copy(f.ResponseWriter, from)
	limited, ok := from.(*io.LimitedReader)
	f.early = err != nil || ok && limited.N > 0
	return n, err
}

// Unwrap returns the wrapped response for http.ResponseController.
func (f *fileResponse) Unwrap() http.ResponseWriter { return f.ResponseWriter }

// rangeErrorResponse is a 416 response. It adds the Content-Range, which server.WriteError removes.
type rangeErrorResponse struct {
	http.ResponseWriter
	size int64
}

// WriteHeader adds the Content-Range and writes the header.
func (u rangeErrorResponse) WriteHeader(status int) {
	u.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", u.size))
	u.ResponseWriter.WriteHeader(status)
}
