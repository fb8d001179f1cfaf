// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"math"
	"os"
	"runtime/debug"
	"testing"
	"testing/fstest"
)

// files returns a file system with the given content.
func files(content map[string]string) fstest.MapFS {
	system := fstest.MapFS{}
	for name, text := range content {
		system[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return system
}

func TestContainerMemory(t *testing.T) {
	for _, test := range []struct {
		name    string
		content map[string]string
		want    int64
		fails   bool
	}{
		{"no cgroups", nil, 0, false},
		{"v2 in a container", map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n",
		}, 512 << 20, false},
		{"v2 without limit", map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n",
		}, 0, false},
		{"v2, the least of its ancestors", map[string]string{
			"proc/self/cgroup": "0::/pods/pod1/c1\n", "sys/fs/cgroup/pods/pod1/c1/memory.max": "max",
			"sys/fs/cgroup/pods/pod1/memory.max": "1000000", "sys/fs/cgroup/pods/memory.max": "2000000",
		}, 1_000_000, false},
		{"v2, path of the host", map[string]string{
			"proc/self/cgroup": "0::/../../pods/c1\n", "sys/fs/cgroup/memory.max": "1000000",
		}, 1_000_000, false},
		{"v1", map[string]string{
			"proc/self/cgroup":                           "11:cpu,cpuacct:/docker/x\n9:memory:/docker/x\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000\n",
			"sys/fs/cgroup/cpu/memory.limit_in_bytes":    "1\n",
		}, 1_000_000, false},
		{"v1, memory with another controller", map[string]string{
			"proc/self/cgroup": "9:hugetlb,memory:/a:b\n", "sys/fs/cgroup/memory/a:b/memory.limit_in_bytes": "1000000",
		}, 1_000_000, false},
		{"v1 without limit", map[string]string{
			"proc/self/cgroup": "9:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 0, false},
		{"both", map[string]string{
			"proc/self/cgroup": "9:memory:/\n0::/x\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000",
		}, 1_000_000, false},
		{"malformed", map[string]string{
			"proc/self/cgroup": "what\n\n0::/\n", "sys/fs/cgroup/memory.max": "much\n",
		}, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, err := containerMemory(files(test.content)); got != test.want || (err != nil) != test.fails {
				t.Errorf("got %d, %v, want %d", got, err, test.want)
			}
		})
	}
}

func TestSetMemoryLimit(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	system := files(map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000000000\n"})
	if got, err := SetMemoryLimit(system, func(string) string { return "1GiB" }); got != 0 || err != nil || debug.SetMemoryLimit(-1) != before {
		t.Errorf("the environment's limit is replaced: %d, %v", got, err)
	}
	got, err := SetMemoryLimit(system, func(string) string { return "" })
	if got != 900_000_000 || err != nil || debug.SetMemoryLimit(-1) != got {
		t.Errorf("got %d, %v", got, err)
	}
	if got, err := SetMemoryLimit(files(nil), func(string) string { return "" }); got != 0 || err != nil {
		t.Errorf("got %d, %v", got, err)
	}
}

func TestContainerMemoryHere(t *testing.T) {
	if got, err := containerMemory(os.DirFS("/")); err != nil || got < 0 || got == math.MaxInt64 {
		t.Errorf("got %d, %v", got, err)
	}
}
