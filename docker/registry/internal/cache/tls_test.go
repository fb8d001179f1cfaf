// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// secretFolder is a mounted Secret of type kubernetes.io/tls in the kubelet's layout: files are links into a folder
// that is replaced by renaming a link.
type secretFolder struct {
	t       *testing.T
	path    string
	version int
}

func newSecretFolder(t *testing.T) *secretFolder {
	f := &secretFolder{t: t, path: t.TempDir()}
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink("..data/"+name, filepath.Join(f.path, name)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// publish replaces both files at once.
func (f *secretFolder) publish(certificate, key []byte) {
	f.t.Helper()
	f.version++
	version := fmt.Sprint("..", f.version)
	if err := os.Mkdir(filepath.Join(f.path, version), 0o700); err != nil {
		f.t.Fatal(err)
	}
	for name, content := range map[string][]byte{"tls.crt": certificate, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(f.path, version, name), content, 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := os.Symlink(version, filepath.Join(f.path, "..next")); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(f.path, "..next"), filepath.Join(f.path, "..data")); err != nil {
		f.t.Fatal(err)
	}
	_ = os.RemoveAll(filepath.Join(f.path, fmt.Sprint("..", f.version-1)))
}

// tlsClient is a client that trusts some certificates.
type tlsClient struct {
	t       *testing.T
	address string
	roots   *x509.CertPool
}

// dial connects, and returns the serial number of the server's certificate.
func (c *tlsClient) dial() (*tls.Conn, int64) {
	c.t.Helper()
	conn, err := tls.Dial("tcp", c.address, &tls.Config{RootCAs: c.roots})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn, conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// serial returns the serial number of the certificate for a new connection.
func (c *tlsClient) serial() int64 {
	c.t.Helper()
	conn, number := c.dial()
	_ = conn.Close()
	return number
}

// get sends a request on a connection, and returns the response after its header has arrived.
func (c *tlsClient) get(conn *tls.Conn, path string) *http.Response {
	c.t.Helper()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, c.address); err != nil {
		c.t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// TestTLS replaces the certificate during a pull, which is not affected. If the files are not a valid pair, the last
// valid one is used, and the error is logged and counted.
func TestTLS(t *testing.T) {
	folder := newSecretFolder(t)
	first, firstKey := testutil.Certificate(t, 1)
	second, secondKey := testutil.Certificate(t, 2)
	folder.publish(first, firstKey)
	u := newRegistry(t)
	layer := testutil.RandomBytes(mib)
	_, blob := u.image("v1", layer)
	rest := make(chan struct{})
	u.misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
		_, _ = w.Write(layer[:mib/2])
		_ = http.NewResponseController(w).Flush()
		<-rest
		_, _ = w.Write(layer[mib/2:])
		return true
	})
	r := startTLS(t, fmt.Sprintf("tls: {certificate: %s/tls.crt, key: %s/tls.key}", folder.path, folder.path), u)
	c := &tlsClient{t: t, address: r.Address().String(), roots: x509.NewCertPool()}
	c.roots.AppendCertsFromPEM(first)
	c.roots.AppendCertsFromPEM(second)
	event := func(name string) float64 { return r.value(`registry_cache_events_total{event="` + name + `"}`) }

	old, number := c.dial()
	if number != 1 {
		t.Fatalf("certificate %d", number)
	}
	slow := c.get(old, "/v2/a/b/blobs/"+blob.String())
	part := make([]byte, mib/4)
	if _, err := io.ReadFull(slow.Body, part); err != nil || slow.StatusCode != 200 {
		t.Fatal(slow.StatusCode, err)
	}

	folder.publish(second, secondKey)
	testutil.Eventually(t, "a new connection has the new certificate", func() bool { return c.serial() == 2 })
	if n := event("certificate_reloaded"); n != 1 {
		t.Errorf("%v reloads are counted", n)
	}

	for what, pair := range map[string][2][]byte{"of two pairs": {second, firstKey}, "no PEM": {[]byte("nothing"), secondKey}, "empty": {nil, nil}} {
		before := event("certificate_failed")
		folder.publish(pair[0], pair[1])
		testutil.Eventually(t, what+": the failure is counted", func() bool {
			if number := c.serial(); number != 2 {
				t.Errorf("%s: certificate %d", what, number)
			}
			return event("certificate_failed") > before
		})
	}
	if n := event("certificate_reloaded"); n != 1 {
		t.Errorf("%v reloads are counted", n)
	}
	if !logged(r, "level=ERROR", folder.path+"/tls.crt") || !logged(r, "level=INFO", "certificate="+folder.path+"/tls.crt") {
		t.Errorf("log: %s", r.log)
	}

	close(rest)
	tail, err := io.ReadAll(slow.Body)
	if err != nil || digest.FromBytes(append(part, tail...)) != blob {
		t.Errorf("the pull that began with the old certificate has %d bytes, %v", len(part)+len(tail), err)
	}
	// The connection can be reused for the next request.
	if again := c.get(old, "/v2/"); again.StatusCode != 200 {
		t.Errorf("%d on the connection of the old certificate", again.StatusCode)
	}

	// Valid files end the failures.
	folder.publish(first, firstKey)
	testutil.Eventually(t, "the first certificate again", func() bool { return c.serial() == 1 })
}

// startTLS starts a cache with TLS on the client port. Probes are read at the metrics port.
func startTLS(t *testing.T, more string, u *registry) *running {
	t.Helper()
	return startReady(t, configuration(t, t.TempDir(), more, u), func(r *running) answer { return fetch(r.metricsAddress(), "/ready") })
}
