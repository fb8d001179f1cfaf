// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

const killLimit = 3 * mib

// killContent returns content that is the same in each killed process.
func killContent(i int) []byte {
	b := make([]byte, 1+(i*97)%400*kib)
	_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(b)
	return b
}

// killed writes until it is killed at the nth execution of a step.
func killed(point, root string) {
	step, count, _ := strings.Cut(point, " ")
	left, _ := strconv.Atoi(count)
	s := newStore(testOptions(root, killLimit))
	if err := s.open(); err != nil {
		panic(err)
	}
	u, err := s.Upstream("one")
	if err != nil {
		panic(err)
	}
	s.fault = func(at string) error {
		if at == step {
			if left--; left == 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		return nil
	}
	r := repository(panics{}, u, "r")
	for i := range 200 {
		content := killContent(i % 60)
		d := digest.FromBytes(content)
		if err := pull(ctx, r, d, content); err != nil {
			panic(err)
		}
		_ = u.PutContent(ctx, fmt.Sprintf("%sr/_manifests/tags/t%d/current/link", reposDir, i%7), []byte(d))
		if i%9 == 0 {
			_ = u.Delete(ctx, dataPath(d))
		}
	}
	os.Exit(3)
}

// panics is a testing.TB for a process that is not a test.
type panics struct{ testing.TB }

func (panics) Helper()           {}
func (panics) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// TestKill kills a process at each disk operation, several times on the same store. Afterwards, no wrong byte is
// served, and the count agrees with du.
func TestKill(t *testing.T) {
	for _, step := range []string{"create", "write", "fsync", "rename", "link", "remove"} {
		t.Run(step, func(t *testing.T) {
			root := t.TempDir()
			kept := 0
			for _, nth := range []int{1, 2, 5, 11, 40} {
				c := exec.Command(os.Args[0])
				c.Env = append(os.Environ(), fmt.Sprintf("STORE_TEST_KILL=%s %d", step, nth), "STORE_TEST_ROOT="+root)
				out, err := c.CombinedOutput()
				if status, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
					t.Fatalf("not killed: %v\n%s", err, out)
				}
				s := openStore(t, testOptions(root, killLimit))
				u := upstream(t, s)
				checkCount(t, s)
				if left, _ := os.ReadDir(s.diskPath(tmpPath)); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
				for i := range 60 {
					if has(t, u, "r", digest.FromBytes(killContent(i))) {
						kept++
					}
				}
				for i := range 7 {
					link := fmt.Sprintf("%sr/_manifests/tags/t%d/current/link", reposDir, i)
					if says, err := u.GetContent(ctx, link); err == nil {
						if _, err := u.Stat(ctx, dataPath(digest.Digest(says))); err != nil {
							t.Errorf("a tag names what is not there: %v", err)
						}
					}
				}
				if st := s.Stats(); st.Corrupt != 0 {
					t.Errorf("%d blobs were wrong", st.Corrupt)
				}
				checkCount(t, s)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if kept == 0 {
				t.Error("no process has stored anything: the test tests nothing")
			}
		})
	}
}
