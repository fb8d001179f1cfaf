// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// errNotRegular is the error for a path at which somebody else has put something that is no regular file.
var errNotRegular = fmt.Errorf("it is not a regular file: %w", fs.ErrNotExist)

// openRegular opens a regular file for reading. Everything else is as if it were not there. It never waits: opening a pipe would
// wait for a writer, and opening a file with a lease for its holder.
func openRegular(name string, flags int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW|flags, 0)
	switch {
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENXIO): // a symbolic link, a socket
		return nil, errNotRegular
	case err != nil:
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// readRegular returns the content of a small regular file.
func readRegular(name string) ([]byte, error) {
	f, err := openRegular(name, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
