// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// serial returns the serial number of the current certificate.
func serial(t *testing.T, c *Certificate) int64 {
	t.Helper()
	got, err := c.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(got.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.SerialNumber.Int64()
}

func TestCertificateIsReloaded(t *testing.T) {
	dir := t.TempDir()
	crt, key, _ := pair(t, dir, 1)
	crt2, key2, _ := pair(t, dir, 2)
	var e events
	log := &testutil.LogBuffer{}
	c, err := LoadCertificate(crt, key, slog.New(slog.NewTextHandler(log, nil)), e.observe)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c.now = func() time.Time { return now }
	c.checked.Store(now.UnixNano())
	stat, err := os.Stat(crt)
	if err != nil {
		t.Fatal(err)
	}
	copyOver := func(from, to string) {
		t.Helper()
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(t, to, content)
		// Two versions with the same modification time.
		if err := os.Chtimes(to, stat.ModTime(), stat.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what string, want int64, reloaded, failed int) {
		t.Helper()
		now = now.Add(recheckAfter)
		if got := serial(t, c); got != want || e.of(CertificateReloaded) != reloaded || e.of(CertificateFailed) != failed {
			t.Errorf("%s: got %d, %v", what, got, e.seen)
		}
	}
	expect("unchanged", 1, 0, 0)
	copyOver(crt2, crt)
	if got := serial(t, c); got != 1 {
		t.Errorf("read the files again immediately: got %d", got)
	}
	expect("certificate without its key", 1, 0, 1)
	expect("still without", 1, 0, 2)
	copyOver(key2, key)
	expect("both", 2, 1, 2)
	expect("unchanged", 2, 1, 2)
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	expect("no key", 2, 1, 3)
	copyOver(key2, key)
	expect("key again", 2, 1, 3)
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "certificate="+crt) {
		t.Errorf("log: %s", log)
	}
}

func TestBrokenCertificateIsNotLoaded(t *testing.T) {
	dir := t.TempDir()
	crt, _, _ := pair(t, dir, 1)
	_, key, _ := pair(t, dir, 2)
	for _, files := range [][2]string{{crt, key}, {crt, dir + "/none"}, {key, crt}} {
		if _, err := LoadCertificate(files[0], files[1], slog.New(slog.DiscardHandler), nil); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%v: got %v", files, err)
		}
	}
}

// TestCertificateConcurrently runs many handshakes during a reload, for the race detector.
func TestCertificateConcurrently(t *testing.T) {
	dir := t.TempDir()
	crt, key, _ := pair(t, dir, 1)
	c, err := LoadCertificate(crt, key, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	c.now = func() time.Time { return time.Now().Add(time.Hour) }
	c.checked.Store(0)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 100 {
				c.checked.Store(0)
				var got *tls.Certificate
				if got, err := c.GetCertificate(nil); err != nil || got == nil {
					t.Error(err)
				}
				_ = got
			}
		})
	}
	wait.Wait()
}

// TestReloadCutsNothing checks that a transfer that started with the old certificate continues.
func TestReloadCutsNothing(t *testing.T) {
	dir := t.TempDir()
	crt, key, _ := pair(t, dir, 1)
	crt2, key2, _ := pair(t, dir, 2)
	handler, begun, release := held()
	r := start(t, func(o *Options) {
		o.Handler = handler
		var err error
		if o.Certificate, err = LoadCertificate(crt, key, o.Log, o.Observe); err != nil {
			t.Fatal(err)
		}
		o.Certificate.now = func() time.Time { return time.Unix(0, o.Certificate.checked.Load()).Add(recheckAfter) }
	})
	connect := func() (*tls.Conn, int64) {
		c := tls.Client(r.dial(), &tls.Config{InsecureSkipVerify: true})
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		return c, c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	old, number := connect()
	if number != 1 {
		t.Fatalf("got %d", number)
	}
	send(t, old, get)
	<-begun
	for from, to := range map[string]string{crt2: crt, key2: key} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(t, to, content)
	}
	if _, number := connect(); number != 2 {
		t.Errorf("got %d", number)
	}
	close(release)
	body := make([]byte, 4096)
	n, _ := old.Read(body)
	m, _ := old.Read(body[n:])
	if !strings.HasSuffix(string(body[:n+m]), "later") {
		t.Errorf("got %q", body[:n+m])
	}
}
