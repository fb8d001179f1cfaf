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

// maxFile is the maximum size of the file, in bytes: that of a Kubernetes Secret.
const maxFile = 1 << 20

// file reads the htpasswd file and detects new versions. It compares the content, which takes microseconds: size and
// modification time can be equal for two versions written within one clock tick.
type file struct {
	path  string
	log   *slog.Logger
	state string // result of the last read: a hash of the content, or an error

	broken   atomic.Bool
	failures atomic.Uint64
}

// next returns the lines of the file, and whether the file has changed since the last call. An unusable version is
// logged and counted once.
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
		f.log.Error("The htpasswd file cannot be used; keeping the users of the last valid version", "error", err)
		return nil, true, err
	}
	f.log.Info("Loaded the htpasswd file", "path", f.path, "users", len(lines))
	return lines, true, nil
}

// readFile returns the content of a regular file. It returns an error if the file is larger than maxFile.
func readFile(path string) ([]byte, error) {
	// Opening a named pipe would block.
	info, err := os.Stat(path)
	if err != nil {
		return nil, readError(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file; name a file with lines as created by: htpasswd -nB USER")
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
		return nil, fmt.Errorf("is larger than %d bytes; remove users you no longer need", maxFile)
	}
	return content, nil
}

// readError returns an error without the path, which the caller adds.
func readError(err error) error {
	if p := (*os.PathError)(nil); errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("cannot be read: %w; mount the Secret at this path and make it readable by this process", err)
}
