// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// contents is a handler that serves the blobs in a folder from memory. It is the minimum that a server with Go's
// net/http can do.
type contents struct {
	folder string
	known  sync.Map // []byte, by digest
}

// ServeHTTP serves a blob.
func (c *contents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, name, _ := strings.Cut(r.URL.Path, "/blobs/sha256:")
	content, ok := c.known.Load(name)
	if !ok {
		read, err := os.ReadFile(filepath.Join(c.folder, filepath.Base(name)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		content, _ = c.known.LoadOrStore(name, read)
	}
	body := content.([]byte)
	w.Header()["Content-Type"] = []string{"application/octet-stream"}
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	_, _ = w.Write(body) // fails only if the client has disconnected
}

// serveBlobs serves the blobs in a folder on an address until it is killed. Each blob is a file named by its sha256 in hex.
func serveBlobs(address, folder string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &contents{folder: folder}, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute}
	return server.Serve(listener)
}
