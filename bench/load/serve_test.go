// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

func TestContents(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "abc"), []byte("a blob"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(&contents{folder: folder})
	defer server.Close()
	for _, test := range []struct {
		path, body string
		status     int
	}{
		{"/v2/a/b/blobs/sha256:abc", "a blob", http.StatusOK},
		{"/v2/a/b/blobs/sha256:abc", "a blob", http.StatusOK}, // served from memory
		{"/v2/a/b/blobs/sha256:def", "404 page not found\n", http.StatusNotFound},
		{"/v2/", "404 page not found\n", http.StatusNotFound},
	} {
		resp, err := http.Get(server.URL + test.path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != test.status || string(body) != test.body {
			t.Errorf("%s: %d %q, %v", test.path, resp.StatusCode, body, err)
		}
	}
}
