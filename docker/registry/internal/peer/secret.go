// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// secretMin and secretMax limit the length of a secret, in bytes.
	secretMin = 16
	secretMax = 1024
	// recheckAfter is how long a secret is used before the file is read again.
	recheckAfter = time.Second
)

// secret is the file with the secret that the replicas share. It detects changes by content, since two versions within
// one clock tick have the same modification time.
type secret struct {
	path string
	log  *slog.Logger

	keys     atomic.Pointer[[]string] // the first key signs; all keys verify
	failures atomic.Uint64

	mu    sync.Mutex
	next  time.Time // time of the next read
	state string    // result of the last read: the content, or an error
}

// openSecret returns the secret in a file, or an error if the file cannot be used.
func openSecret(path string, log *slog.Logger) (*secret, error) {
	s := &secret{path: path, log: log, next: time.Now().Add(recheckAfter)}
	content, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("secret file %s of the peers: %w", path, err)
	}
	keys, err := parseSecret(content)
	if err != nil {
		return nil, fmt.Errorf("secret file %s of the peers: %w", path, err)
	}
	s.state = content
	s.keys.Store(&keys)
	return s, nil
}

// get returns the keys. It reads the file at most once a second. An invalid version of the file is ignored, and logged
// and counted once.
func (s *secret) get() []string {
	if s.mu.TryLock() { // otherwise another request is reading the file
		if now := time.Now(); !now.Before(s.next) {
			s.next = now.Add(recheckAfter)
			s.reload()
		}
		s.mu.Unlock()
	}
	return *s.keys.Load()
}

// reload reads the file and uses a new version if it is valid.
func (s *secret) reload() {
	content, err := readSecret(s.path)
	state := content
	if err != nil {
		state = err.Error()
	}
	if state == s.state {
		return
	}
	s.state = state
	var keys []string
	if err == nil {
		keys, err = parseSecret(content)
	}
	if err != nil {
		s.failures.Add(1)
		s.log.Error("The secret of the peers cannot be used; keeping the last valid version", "path", s.path, "error", err)
		return
	}
	s.keys.Store(&keys)
	s.log.Info("Loaded the secret of the peers", "path", s.path, "lines", len(keys))
}

// readSecret returns the content of a small regular file.
func readSecret(path string) (string, error) {
	// Opening a named pipe would block.
	if info, err := os.Stat(path); err != nil {
		return "", readError(err)
	} else if !info.Mode().IsRegular() {
		return "", errors.New("is not a regular file; name a file with one line, for example created by: openssl rand -hex 32")
	}
	file, err := os.Open(path)
	if err != nil {
		return "", readError(err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, 2*secretMax+8))
	if err != nil {
		return "", readError(err)
	}
	return string(content), nil
}

// readError returns an error without the path, which the caller adds.
func readError(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		err = p.Err
	}
	return fmt.Errorf("cannot be read: %w; mount the Secret at this path and make it readable by this process", err)
}

// parseSecret returns the lines of a secret. Errors do not contain any part of them.
func parseSecret(content string) ([]string, error) {
	var keys []string
	for line := range strings.Lines(content) {
		if line = strings.TrimSpace(line); line != "" {
			keys = append(keys, line)
		}
	}
	if len(keys) < 1 || len(keys) > 2 {
		return nil, fmt.Errorf("has %d lines; write one line, for example the output of: openssl rand -hex 32; a second line is allowed while the secret is rotated", len(keys))
	}
	for i, key := range keys {
		if len(key) < secretMin || len(key) > secretMax {
			return nil, fmt.Errorf("has %d bytes in line %d; write %d to %d bytes, for example the output of: openssl rand -hex 32", len(key), i+1, secretMin, secretMax)
		}
	}
	return keys, nil
}
