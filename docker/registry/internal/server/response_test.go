// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// reader is a ResponseWriter with ReadFrom, like that of net/http.
type reader struct {
	*httptest.ResponseRecorder
	source io.Reader
}

func (w *reader) ReadFrom(r io.Reader) (int64, error) {
	w.source = r
	return io.Copy(w.ResponseRecorder, r)
}

func TestResponseForwardsReadFrom(t *testing.T) {
	to := &reader{ResponseRecorder: httptest.NewRecorder()}
	w := &response{ResponseWriter: to}
	content := strings.NewReader("content")
	if n, err := io.CopyN(w, content, 7); n != 7 || err != nil {
		t.Fatal(n, err)
	}
	if l, ok := to.source.(*io.LimitedReader); !ok || l.R != io.Reader(content) || w.bytes != 7 || w.status != 200 {
		t.Errorf("got %T, %d bytes, %d", to.source, w.bytes, w.status)
	}
}

func TestResponseRecords(t *testing.T) {
	for name, test := range map[string]struct {
		do     func(*response)
		status int
		bytes  int64
	}{
		"nothing":       {func(*response) {}, 0, 0},
		"status":        {func(w *response) { w.WriteHeader(404) }, 404, 0},
		"information":   {func(w *response) { w.WriteHeader(103) }, 0, 0},
		"first status":  {func(w *response) { w.WriteHeader(404); w.WriteHeader(200) }, 404, 0},
		"body":          {func(w *response) { _, _ = io.WriteString(w, "12"); _, _ = io.WriteString(w, "3") }, 200, 3},
		"flush":         {func(w *response) { w.Flush() }, 200, 0},
		"control":       {func(w *response) { _ = http.NewResponseController(w).Flush() }, 200, 0},
		"without reads": {func(w *response) { _, _ = io.Copy(w, strings.NewReader("123")) }, 200, 3},
	} {
		w := &response{ResponseWriter: httptest.NewRecorder()}
		test.do(w)
		if w.status != test.status || w.bytes != test.bytes {
			t.Errorf("%s: got %d, %d", name, w.status, w.bytes)
		}
	}
}
