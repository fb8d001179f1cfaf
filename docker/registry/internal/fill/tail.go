// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"pullthrough.registry_cache/docker/registry/internal/store"
)

// partBuffer is how much of a part of several ranges is copied at a time.
const partBuffer = 32 << 10

// source is content that may not have come yet. It remembers why it ended early, since http.ServeContent does not say.
type source struct {
	*store.Reader

	mu  sync.Mutex // http.ServeContent reads several ranges in a goroutine that may outlive it
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if !errors.Is(err, io.EOF) {
		s.fail(err)
	}
	return n, err
}

func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *source) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

// tail is a response with what a source has so far: nothing that has come waits in a buffer for what has not.
type tail struct {
	http.ResponseWriter
	source *source
}

// ReadFrom sends what is in a file by the kernel.
func (t *tail) ReadFrom(from io.Reader) (n int64, err error) {
	control := http.NewResponseController(t.ResponseWriter)
	_ = control.Flush() // the header; not supported: nothing was kept back
	if limited, ok := from.(*io.LimitedReader); ok && limited.R == io.Reader(t.source) {
		n, err = t.source.CopyN(t.ResponseWriter, limited.N)
		limited.N -= n
		t.source.fail(err)
		return n, err
	}
	buffer := make([]byte, partBuffer)
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
			t.source.fail(err)
			return n, err
		}
	}
}

// Unwrap is for http.ResponseController.
func (t *tail) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// unsatisfiable is an error's response that says how long the content is. server.WriteError drops what was set before.
type unsatisfiable struct {
	http.ResponseWriter
	size int64
}

func (u unsatisfiable) WriteHeader(status int) {
	u.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", u.size))
	u.ResponseWriter.WriteHeader(status)
}
