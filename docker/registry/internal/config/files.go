// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// CheckFiles checks the files named in the configuration: certificate and key, htpasswd, the peers' secret, the store's
// directory and the credential helpers. It does not modify them. The error is of type Errors.
func (c *Config) CheckFiles() error {
	var problems Errors
	add := func(key, what, got, fix string) {
		problems = append(problems, Error{Key: key, What: what, Got: got, Fix: fix})
	}
	if t := c.TLS; t != nil {
		if _, err := tls.LoadX509KeyPair(t.Certificate, t.Key); err != nil {
			add("tls", "is not a certificate with its key: "+err.Error(), t.Certificate+" and "+t.Key,
				"name two PEM files that belong together, for example tls.crt and tls.key of one Secret")
		}
	}
	if path := c.Auth.Htpasswd; path != "" {
		if err := checkReadable(path); err != nil {
			add("auth.htpasswd", "cannot be read: "+err.Error(), path,
				"name a readable file, for example one created by \"htpasswd -cB htpasswd USER\"")
		}
	}
	if p := c.Peers; p != nil {
		if err := checkReadable(p.Secret); err != nil {
			add("peers.secret", "cannot be read: "+err.Error(), p.Secret,
				"name a readable file with the same content for all replicas, for example one created by \"openssl rand -hex 32\"")
		}
	}
	if err := checkWritable(c.Store.Path); err != nil {
		add("store.path", "cannot be written: "+err.Error(), c.Store.Path,
			"name a directory that the program's user can write, for example /var/lib/registry-cache")
	}
	for i, u := range c.Upstreams {
		if u.Credential == nil {
			continue
		}
		if _, err := exec.LookPath(u.Credential.Helper); err != nil {
			add(fmt.Sprintf("upstreams[%d].credential.helper", i), "cannot be run: "+err.Error(), u.Credential.Helper,
				"install it, or name its path, for example /usr/local/bin/docker-credential-gcr")
		}
	}
	return problems.err()
}

// checkReadable returns an error if a file is not a regular file or cannot be read.
func checkReadable(path string) error {
	// Check this before opening the file, since opening a pipe blocks until it has a writer.
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return file.Close()
}

// checkWritable returns an error if no file can be created in a directory, or if a missing directory cannot be created.
// It leaves no files or directories behind, since the program may still stop because of another error.
func checkWritable(path string) error {
	_, err := os.Stat(path)
	for errors.Is(err, fs.ErrNotExist) && path != filepath.Dir(path) {
		path = filepath.Dir(path)
		_, err = os.Stat(path)
	}
	if err != nil {
		return err
	}
	made, err := os.MkdirTemp(path, ".writable-*")
	if err != nil {
		return err
	}
	return os.Remove(made)
}
