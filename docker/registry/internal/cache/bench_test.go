// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/bcrypt"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// BenchmarkWarm measures requests for cached content on one connection. The client allocates nothing, so all
// allocations are the server's. The CPU time includes sending requests and reading responses.
func BenchmarkWarm(b *testing.B) {
	u := newRegistry(b)
	manifest, blob := u.image("v1", testutil.RandomBytes(2<<10))
	hash, err := bcrypt.GenerateFromPassword([]byte("password"), bcrypt.MinCost)
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "htpasswd")
	if err := os.WriteFile(file, fmt.Appendf(nil, "user:%s\n", hash), 0o600); err != nil {
		b.Fatal(err)
	}
	r := start(b, configuration(b, b.TempDir(), "auth: {htpasswd: "+file+"}\ntags: {ttl: 1h}", u))
	for _, test := range []struct{ name, path string }{
		{"blob", "/v2/a/b/blobs/" + blob.String()},
		{"manifest", "/v2/a/b/manifests/" + digest.FromBytes(manifest).String()},
		{"tag", "/v2/a/b/manifests/v1"},
	} {
		b.Run(test.name, func(b *testing.B) { r.repeat(b, test.path) })
	}
}

// repeat sends the same request again and again.
func (r *running) repeat(b *testing.B, path string) {
	c, err := net.Dial("tcp", r.Address().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nAccept: %s\r\n\r\n",
		path, r.Address(), basic("user", "password"), manifestType)
	counted := &countingReader{Reader: c}
	size := 0
	for range 3 { // the first request fetches it; responses from the store have the same length
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		counted.n = 0
		answer, err := http.ReadResponse(bufio.NewReader(counted), nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != http.StatusOK {
			b.Fatal(answer.Status, err)
		}
		size = counted.n
	}
	buffer := make([]byte, size)
	b.ReportAllocs()
	before := processorTime(b)
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buffer); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// countingReader counts the bytes that were read.
type countingReader struct {
	io.Reader
	n int
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += n
	return n, err
}

// processorTime returns the CPU time used by this process so far.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
