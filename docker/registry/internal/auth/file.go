// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
)

// maxFile is the most bytes of the file: those of a Kubernetes Secret.
const maxFile = 1 << 20

// file reads the htpasswd file and tells its versions apart. It reads the content each time, which takes some
// microseconds: a look at size and time of change would miss the second of two versions of one clock tick.
type file struct {
	path  string
	log   *slog.Logger
	state string // what the last look found: a hash of the content, or why it could not be read

	broken   atomic.Bool
	failures atomic.Uint64
}

// next returns the lines of the file and whether it changed since the last call. An unusable version is logged and
// counted once.
func (f *file) next() (lines map[string]string, changed bool, err error) {
	content, err := readFile(f.path)
	state := fmt.Sprintf("%x", sha256.Sum256(content))
	if err != nil {
		state = err.Error()
	}
	if state == f.state {
		return nil, false, nil
	}
	first := f.state == ""
	f.state = state
	if err == nil {
		lines, err = parseHtpasswd(string(content))
	}
	f.broken.Store(err != nil)
	if err != nil {
		err = fmt.Errorf("htpasswd file %q: %w", f.path, err)
		if first {
			return nil, true, err
		}
		f.failures.Add(1)
		f.log.Error("the htpasswd file is not usable, the users of its last good version stay", "error", err)
		return nil, true, err
	}
	f.log.Info("htpasswd file read", "path", f.path, "users", len(lines))
	return lines, true, nil
}

// readFile returns the content of a regular file of at most maxFile bytes.
func readFile(path string) ([]byte, error) {
	// Opening a named pipe would block.
	info, err := os.Stat(path)
	if err != nil {
		return nil, readError(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file; name a file with lines as of: htpasswd -nB USER")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, readError(err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, readError(err)
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("is larger than %d bytes; remove users that are no longer needed", maxFile)
	}
	return content, nil
}

// readError returns the reason without the path, which the caller names.
func readError(err error) error {
	if p := (*os.PathError)(nil); errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("cannot be read: %w; mount the Secret there, readable by this process", err)
}
