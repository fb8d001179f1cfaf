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

// memoryShare is the part of the container's limit that Go may use; the rest is for the kernel's share of the process.
const memoryShare = 0.9

// unlimited is the least of what cgroup v1 has for "no limit", rounded down to pages of any size.
const unlimited = 1 << 62

// SetMemoryLimit sets Go's memory limit from that of the container. It returns the limit in bytes, or 0 if it set none. It does not
// change a GOMEMLIMIT of the environment. root is the file system at /. GOMAXPROCS needs no such function: since 1.25 Go sets it
// from the container's CPU limit.
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
		return 0, nil // no cgroups here
	}
	if err != nil {
		return 0, err
	}
	least := int64(unlimited)
	for line := range strings.Lines(string(content)) {
		// Such as "0::/group" (v2) or "9:memory:/group" (v1).
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
		// A container may see its own group as the root, under a path that only its host has.
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

// readLimit returns the limit in a file in bytes, or unlimited if the file says so or is missing.
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

// listContains reports whether a comma-separated list has an item.
func listContains(list, item string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if one == item {
			return true
		}
	}
	return false
}
