// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

func TestMain(m *testing.M) {
	if point := os.Getenv("STORE_TEST_KILL"); point != "" {
		killed(point, os.Getenv("STORE_TEST_ROOT"))
	}
	if root := os.Getenv("STORE_TEST_LOCK"); root != "" {
		if _, err := New(testOptions(root, MinLimit)); err != nil {
			panic(err)
		}
		_, _ = os.Stdout.WriteString("locked\n")
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// TestAnotherProcess checks that a store is locked until the process that uses it is killed.
func TestAnotherProcess(t *testing.T) {
	root := t.TempDir()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "STORE_TEST_LOCK="+root)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("locked\n"))); err != nil {
		t.Fatal(err)
	}
	if _, err := New(testOptions(root, MinLimit)); err == nil || !strings.Contains(err.Error(), root) || !strings.Contains(err.Error(), "process") {
		t.Errorf("two processes: %v", err)
	}
	_ = c.Process.Signal(syscall.SIGKILL)
	_ = c.Wait()
	s, err := New(testOptions(root, MinLimit))
	if err != nil {
		t.Fatalf("after its end: %v", err)
	}
	_ = s.Close()
}

// TestLinkedDirectory opens a store through a symbolic link.
func TestLinkedDirectory(t *testing.T) {
	name := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), name); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, testOptions(name, 4*mib))
	u := upstream(t, s)
	d := keep(t, u, "r", testutil.RandomBytes(100*kib))
	s, u = reopen(t, s)
	if !has(t, u, "r", d) {
		t.Error("lost")
	}
	checkCount(t, s)
	for _, repository := range []string{"", "r/", "/r", "x/../r", "../repositories/r", "r/.", "x//r"} {
		if _, ok := u.Has(repository, d); ok {
			t.Errorf("%q is not a repository", repository)
		}
	}
}

// TestFormat checks that a store of an unknown version is emptied, and other files are not touched.
func TestFormat(t *testing.T) {
	s, u := testStore(t, 4*mib)
	d := keep(t, u, "r", testutil.RandomBytes(100*kib))
	own := s.diskPath("/somebody's")
	if err := os.WriteFile(own, testutil.RandomBytes(100*kib), 0o600); err != nil {
		t.Fatal(err)
	}
	s, u = reopen(t, s)
	if !has(t, u, "r", d) {
		t.Error("lost by a restart")
	}
	checkCount(t, s)
	if err := os.WriteFile(s.diskPath(formatPath), []byte("pullthrough.registry_cache store 99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, u = reopen(t, s)
	if has(t, u, "r", d) || s.Stats().Blobs != 0 {
		t.Error("content of an unknown format is served")
	}
	if _, err := os.Stat(own); err != nil {
		t.Error("a file that is not the store's was removed")
	}
	checkCount(t, s)
	e := keep(t, u, "r", testutil.RandomBytes(100*kib))
	_, u = reopen(t, s)
	if !has(t, u, "r", e) {
		t.Error("the format was not marked")
	}
}
