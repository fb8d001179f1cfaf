// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"errors"
	"io/fs"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryShare is the part of the container's memory limit that Go may use. The rest is for memory that the kernel uses
// on behalf of the process.
const memoryShare = 0.9

// unlimited is a lower bound of the value for "no limit" in cgroup v1, which depends on the page size.
const unlimited = 1 << 62

// SetMemoryLimit sets Go's memory limit from the container's limit. It returns the limit in bytes, or 0 if it set none.
// It does not override GOMEMLIMIT. root is the file system at /. GOMAXPROCS needs no such function: since Go 1.25, it
// follows the container's CPU limit.
func SetMemoryLimit(root fs.FS, getenv func(string) string) (int64, error) {
	if getenv("GOMEMLIMIT") != "" {
		return 0, nil
	}
	limit, err := containerMemory(root)
	if err != nil || limit == 0 {
		return 0, err
	}
	limit = int64(float64(limit) * memoryShare)
	debug.SetMemoryLimit(limit)
	return limit, nil
}

// containerMemory returns the lowest memory limit, in bytes, of the process's cgroup and its parents, or 0 if there is none.
func containerMemory(root fs.FS) (int64, error) {
	content, err := fs.ReadFile(root, "proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // no cgroups
	}
	if err != nil {
		return 0, err
	}
	least := int64(unlimited)
	for line := range strings.Lines(string(content)) {
		// For example "0::/group" (v2) or "9:memory:/group" (v1).
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		mount, file := "", ""
		switch {
		case fields[0] == "0" && fields[1] == "":
			mount, file = "sys/fs/cgroup", "memory.max"
		case listContains(fields[1], "memory"):
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		// In a container, the process's group may be mounted as the root, while the path is that on the host.
		for group := path.Join("/", fields[2]); ; group = path.Dir(group) {
			limit, err := readLimit(root, path.Join(mount, group, file))
			if err != nil {
				return 0, err
			}
			least = min(least, limit)
			if group == "/" {
				break
			}
		}
	}
	if least == unlimited {
		return 0, nil
	}
	return least, nil
}

// readLimit returns the limit in a file, in bytes, or unlimited if there is no limit or no such file.
func readLimit(root fs.FS, name string) (int64, error) {
	content, err := fs.ReadFile(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return unlimited, nil
	}
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(content))
	if text == "max" {
		return unlimited, nil
	}
	limit, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, err
	}
	if limit <= 0 {
		return unlimited, nil
	}
	return min(limit, unlimited), nil
}

// listContains reports whether a comma-separated list contains an item.
func listContains(list, item string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if one == item {
			return true
		}
	}
	return false
}
