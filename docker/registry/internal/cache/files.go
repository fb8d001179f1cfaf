// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"log/slog"
	"syscall"
)

// spareFiles is how many files the program may need beside those of connections without a good credential.
const spareFiles = 1024

// fitConnections returns the limit for connections without a good credential, lowered to what the limit of open files allows.
// Together with those that are let in beside the limit, they get the spare files, but never less than half of all. It logs a
// lower limit. Go has already raised the limit of open files as far as possible.
func fitConnections(wanted int, log *slog.Logger) int {
	needed := 2*uint64(wanted) + spareFiles
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		log.Warn("The limit of open files is not known", "error", err)
		return wanted
	}
	if limit.Cur >= needed {
		return wanted
	}
	share := limit.Cur / 2
	if limit.Cur > 2*spareFiles {
		share = limit.Cur - spareFiles
	}
	fit := max(1, min(wanted, int(share/2)))
	log.Warn("The limit of open files is low: clients may be refused. Raise the container runtime's limit (nofile), or lower "+
		"limits.unauthenticated_connections", "limit", limit.Cur, "needed", needed, "connections", fit)
	return fit
}
