// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"log/slog"
	"syscall"
)

// spareFiles is how many files the program may need beside those of connections without a good credential.
const spareFiles = 1024

// warnOfFewFiles says if the process may open too few files for its connections. Go has raised the limit as far as it may.
func warnOfFewFiles(connections int, log *slog.Logger) {
	needed := 2*uint64(connections) + spareFiles
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		log.Warn("The limit of open files is not known", "error", err)
		return
	}
	if limit.Cur < needed {
		log.Warn("The limit of open files is low: clients may be refused. Raise the container runtime's limit (nofile), or lower "+
			"limits.unauthenticated_connections", "limit", limit.Cur, "needed", needed)
	}
}
