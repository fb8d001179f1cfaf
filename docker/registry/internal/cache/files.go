// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"log/slog"
	"syscall"
)

// spareFiles is the number of file descriptors reserved for everything but connections without a valid credential.
const spareFiles = 1024

// fitConnections returns the limit for connections without a valid credential, lowered if the limit of open files
// (nofile) requires it. These connections, including those accepted beyond the limit, may use all files but spareFiles,
// and at least half of all files. It logs a warning if it lowers the limit. Go has already raised the soft limit to the
// hard limit.
func fitConnections(wanted int, log *slog.Logger) int {
	needed := 2*uint64(wanted) + spareFiles
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		log.Warn("Cannot read the limit of open files", "error", err)
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
	log.Warn("The limit of open files is low: connections may be refused. Raise the container runtime's limit (nofile), or lower "+
		"limits.unauthenticated_connections", "limit", limit.Cur, "needed", needed, "connections", fit)
	return fit
}
