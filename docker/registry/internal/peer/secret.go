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
	// secretMin and secretMax are how many bytes a secret may have.
	secretMin = 16
	secretMax = 1024
	// recheckAfter is how long a version of the file is used unread.
	recheckAfter = time.Second
)

// secret is the file with the secret that the replicas share. Changes are found by content, since two versions within one clock
// tick have the same modification time.
type secret struct {
	path string
	log  *slog.Logger

	keys     atomic.Pointer[[]string] // the first signs, each of them verifies
	failures atomic.Uint64

	mu    sync.Mutex
	next  time.Time // of the next look
	state string    // what the last look found: the content, or why there is none
}

// openSecret returns the secret of a file, or an error if the file is not usable.
func openSecret(path string, log *slog.Logger) (*secret, error) {
	s := &secret{path: path, log: log, next: time.Now().Add(recheckAfter)}
	content, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("secret of the peers, file %s: %w", path, err)
	}
	keys, err := parseSecret(content)
	if err != nil {
		return nil, fmt.Errorf("secret of the peers, file %s: %w", path, err)
	}
	s.state = content
	s.keys.Store(&keys)
	return s, nil
}

// get returns the keys. It reads the file at most once a second. A version that is not usable changes nothing, and is logged and
// counted once.
func (s *secret) get() []string {
	if s.mu.TryLock() { // else another request looks
		if now := time.Now(); !now.Before(s.next) {
			s.next = now.Add(recheckAfter)
			s.reload()
		}
		s.mu.Unlock()
	}
	return *s.keys.Load()
}

// reload reads the file and takes a new version if it is usable.
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
		s.log.Error("The secret of the peers is not usable, its last good version stays", "path", s.path, "error", err)
		return
	}
	s.keys.Store(&keys)
	s.log.Info("Secret of the peers read", "path", s.path, "lines", len(keys))
}

// readSecret returns the content of a small regular file.
func readSecret(path string) (string, error) {
	// Opening a named pipe would block.
	if info, err := os.Stat(path); err != nil {
		return "", readError(err)
	} else if !info.Mode().IsRegular() {
		return "", errors.New("is not a regular file; name a file with one line, for example of: openssl rand -hex 32")
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
	return fmt.Errorf("cannot be read: %w; mount the Secret there, readable by this process", err)
}

// parseSecret returns the lines of a secret. An error does not contain any part of them.
func parseSecret(content string) ([]string, error) {
	var keys []string
	for line := range strings.Lines(content) {
		if line = strings.TrimSpace(line); line != "" {
			keys = append(keys, line)
		}
	}
	if len(keys) < 1 || len(keys) > 2 {
		return nil, fmt.Errorf("has %d lines; write one, for example of: openssl rand -hex 32; a second one is accepted too, while the secret is renewed", len(keys))
	}
	for i, key := range keys {
		if len(key) < secretMin || len(key) > secretMax {
			return nil, fmt.Errorf("has %d bytes in line %d; write %d to %d, for example of: openssl rand -hex 32", len(key), i+1, secretMin, secretMax)
		}
	}
	return keys, nil
}
