// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// pair writes a certificate and its key.
func pair(t *testing.T, dir, name string) TLS {
	t.Helper()
	certificate, key := testutil.Certificate(t, 1)
	files := TLS{filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")}
	write(t, files.Certificate, string(certificate))
	write(t, files.Key, string(key))
	return files
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	first, second := pair(t, dir, "first"), pair(t, dir, "second")
	file, helper, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "helper"), filepath.Join(dir, "pipe")
	write(t, file, "user:x\n")
	write(t, helper, "#!/bin/sh\n")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		change func(*Config)
		keys   []string
	}{
		{"good", func(*Config) {}, nil},
		{"certificate of another key", func(c *Config) { c.TLS.Key = second.Key }, []string{"tls"}},
		{"missing certificate", func(c *Config) { c.TLS.Certificate = dir + "/none" }, []string{"tls"}},
		{"no certificate", func(c *Config) { c.TLS.Certificate = file }, []string{"tls"}},
		{"missing htpasswd", func(c *Config) { c.Auth.Htpasswd = dir + "/none" }, []string{"auth.htpasswd"}},
		{"directory for htpasswd", func(c *Config) { c.Auth.Htpasswd = dir }, []string{"auth.htpasswd"}},
		{"pipe for htpasswd", func(c *Config) { c.Auth.Htpasswd = pipe }, []string{"auth.htpasswd"}},
		{"file for the store", func(c *Config) { c.Store.Path = file }, []string{"store.path"}},
		{"store below a file", func(c *Config) { c.Store.Path = file + "/store" }, []string{"store.path"}},
		{"missing helper", func(c *Config) { c.Upstreams[1].Credential.Helper = dir + "/none" }, []string{"upstreams[1].credential.helper"}},
		{"helper that is not executable", func(c *Config) { c.Upstreams[1].Credential.Helper = dir }, []string{"upstreams[1].credential.helper"}},
		{"two faults", func(c *Config) { c.TLS.Key, c.Auth.Htpasswd = second.Key, dir }, []string{"tls", "auth.htpasswd"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := defaultConfig()
			c.TLS = &TLS{first.Certificate, first.Key}
			c.Auth.Htpasswd = file
			c.Store.Path = filepath.Join(dir, "new", "store")
			c.Upstreams = []Upstream{{Host: "a.example"}, {Host: "b.example", Credential: &Credential{Helper: helper}}}
			test.change(c)
			err := c.CheckFiles()
			var problems Errors
			errors.As(err, &problems)
			var keys []string
			for _, p := range problems {
				keys = append(keys, p.Key)
				if p.Got == "" || p.Fix == "" {
					t.Errorf("no value or no fix: %v", p)
				}
			}
			if !reflect.DeepEqual(keys, test.keys) || (err == nil) != (len(test.keys) == 0) {
				t.Errorf("got %q (%v), want %q", keys, err, test.keys)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the store's directory was made: %v", err)
	}
}

func TestUnwritableStore(t *testing.T) {
	if os.Getuid() == 0 {
		// Root can write everywhere except where the kernel refuses.
		if checkWritable("/proc") == nil {
			t.Error("/proc is taken as writable")
		}
		return
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if checkWritable(dir) == nil {
		t.Error("a directory without write permission is taken as writable")
	}
}
