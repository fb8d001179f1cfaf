// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// recheckAfter is how long a certificate is used before its files are read again.
const recheckAfter = time.Second

// A Certificate is a pair of PEM files that are reloaded when they change. While the pair is invalid, for example
// because the key has not been replaced yet, the last valid pair is used.
type Certificate struct {
	certificate, key string // paths
	log              *slog.Logger
	observe          func(Event)
	now              func() time.Time

	current atomic.Pointer[tls.Certificate]
	checked atomic.Int64 // time of the last check, in Unix nanoseconds

	mu  sync.Mutex // held while the files are read
	pem [2][]byte  // content of the last valid pair
}

// LoadCertificate returns the certificate in two files, or an error if they are not a valid pair. observe, if not nil,
// is called for each reload and each failure.
func LoadCertificate(certificate, key string, log *slog.Logger, observe func(Event)) (*Certificate, error) {
	c := &Certificate{certificate: certificate, key: key, log: log, observe: observe, now: time.Now}
	if observe == nil {
		c.observe = func(Event) {}
	}
	pem, err := c.read()
	if err != nil {
		return nil, err
	}
	if err := c.set(pem); err != nil {
		return nil, err
	}
	c.checked.Store(c.now().UnixNano())
	return c, nil
}

// GetCertificate returns the current certificate, for tls.Config.GetCertificate. It reads the files at most once per
// second, and compares their content, since two versions may have the same modification time.
func (c *Certificate) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.now().UnixNano()-c.checked.Load() >= int64(recheckAfter) && c.mu.TryLock() {
		c.reload()
		c.checked.Store(c.now().UnixNano())
		c.mu.Unlock()
	}
	return c.current.Load(), nil
}

// reload reads the files and uses a new pair if it is valid.
func (c *Certificate) reload() {
	pem, err := c.read()
	if err == nil {
		if bytes.Equal(pem[0], c.pem[0]) && bytes.Equal(pem[1], c.pem[1]) {
			return
		}
		err = c.set(pem)
	}
	if err != nil {
		c.log.Error("Cannot reload the TLS certificate; using the last valid one", "error", err)
		c.observe(CertificateFailed)
		return
	}
	c.log.Info("Reloaded the TLS certificate", "certificate", c.certificate)
	c.observe(CertificateReloaded)
}

// read returns the content of the two files.
func (c *Certificate) read() (pem [2][]byte, err error) {
	for i, path := range []string{c.certificate, c.key} {
		if pem[i], err = os.ReadFile(path); err != nil {
			return pem, err
		}
	}
	return pem, nil
}

// set makes a pair the current certificate.
func (c *Certificate) set(pem [2][]byte) error {
	pair, err := tls.X509KeyPair(pem[0], pem[1])
	if err != nil {
		return fmt.Errorf("%s with %s: %w", c.certificate, c.key, err)
	}
	c.pem = pem
	c.current.Store(&pair)
	return nil
}
