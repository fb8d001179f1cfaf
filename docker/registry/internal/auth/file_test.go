// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestStartNeedsAUsableFile(t *testing.T) {
	dir := t.TempDir()
	path := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{
		"":                               "htpasswd",
		filepath.Join(dir, "missing"):    "no such file",
		dir:                              "regular file",
		pipe:                             "regular file",
		path("empty", ""):                "no user",
		path("malformed", "x\ngeheim\n"): "line 1",
		path("large", strings.Repeat("#", maxFile+1)): "larger",
	} {
		c, err := New(Options{Path: p})
		if err == nil {
			c.Close()
			t.Errorf("%q: no error", p)
			continue
		}
		if !strings.Contains(err.Error(), p) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: %v", p, err)
		}
	}
}

func TestBrokenFileKeepsTheLastGoodUsers(t *testing.T) {
	ann := line("ann", "a")
	inWorld(t, []string{ann}, func(t *testing.T, w *world) {
		w.want(Good, 1, "ann", "a")
		for i, breakIt := range []func(){
			func() { w.write(ann, "geheim:geheim") },
			func() { w.write("") },
			func() { _ = os.Remove(w.path) },
			func() { _ = os.Mkdir(w.path, 0o700) },
		} {
			breakIt()
			time.Sleep(10 * time.Second)
			synctest.Wait()
			w.want(Good, 0, "ann", "a")
			if s := w.Stats(); s.Users != 0 || s.ReloadFailures != uint64(i+1) {
				t.Errorf("%d: %+v", i, s)
			}
			if n := strings.Count(w.log.String(), "level=ERROR"); n != i+1 {
				t.Errorf("%d: %d errors in the log, want %d: %s", i, n, i+1, w.log.String())
			}
		}
		_ = os.Remove(w.path)
		w.reload(ann)
		w.want(Good, 0, "ann", "a")
		if s := w.Stats(); s.Users != 1 {
			t.Errorf("%+v", s)
		}
		if text := w.log.String(); strings.Contains(text, "geheim") || strings.Contains(text, ann[10:]) || !strings.Contains(text, w.path) {
			t.Error(text)
		}
	})
}

// TestKubeletReplacesTheFile uses the kubelet's layout: htpasswd is a link to ..data/htpasswd, and ..data is a link to a
// folder, which is replaced.
func TestKubeletReplacesTheFile(t *testing.T) {
	dir := t.TempDir()
	publish := func(version, content string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, version, "htpasswd"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	ann := line("ann", "a")
	publish("..1", ann)
	if err := os.Symlink("..data/htpasswd", filepath.Join(dir, "htpasswd")); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t}
		var err error
		if w.Checker, err = newChecker(Options{Path: filepath.Join(dir, "htpasswd")}, w.compare); err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		w.want(Good, 1, "ann", "a")
		publish("..2", ann+"\n"+line("bob", "b"))
		_ = os.RemoveAll(filepath.Join(dir, "..1"))
		time.Sleep(time.Second)
		synctest.Wait()
		w.want(Good, 0, "ann", "a")
		w.want(Good, 1, "bob", "b")
	})
}

// TestVersionsWithTheSameTime writes a new version with the same inode, size and modification time.
func TestVersionsWithTheSameTime(t *testing.T) {
	inWorld(t, []string{line("ann", "a1")}, func(t *testing.T, w *world) {
		tick := time.Unix(1700000000, 0)
		for _, password := range []string{"a2", "a3"} {
			if err := os.WriteFile(w.path, []byte(line("ann", password)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(w.path, tick, tick); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			w.want(Good, 1, "ann", password)
		}
	})
}
