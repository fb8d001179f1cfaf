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

// errNotRegular is returned if another process has replaced a file with something that is not a regular file.
var errNotRegular = fmt.Errorf("not a regular file: %w", fs.ErrNotExist)

// openRegular opens a regular file for reading. Other types of files count as missing. It never blocks, as it otherwise
// would on a pipe without a writer or a file with a lease.
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
