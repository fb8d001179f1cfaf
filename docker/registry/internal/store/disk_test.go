// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// mountDisk mounts a separate file system, where the kernel counts every block, including deleted files that are still
// open.
func mountDisk(t *testing.T, size int64) string {
	t.Helper()
	root := t.TempDir()
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("cannot mount a file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	return root
}

func diskUsed(t testing.TB, root string) int64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(root, &st); err != nil {
		t.Error(err)
	}
	return int64(st.Blocks-st.Bfree) * int64(st.Bsize)
}

// TestDiskNeverHoldsMore checks the kernel's count of blocks during fills, slow readers and evictions.
func TestDiskNeverHoldsMore(t *testing.T) {
	const limit = 8 * mib
	root := mountDisk(t, 64*mib)
	s := openStore(t, testOptions(root, limit))
	u := upstream(t, s)
	done := make(chan struct{})
	most := int64(0)
	var watch, workers sync.WaitGroup
	watch.Go(func() {
		for {
			most = max(most, diskUsed(t, root))
			select {
			case <-done:
				return
			case <-time.After(200 * time.Microsecond):
			}
		}
	})
	for worker := range 4 {
		workers.Go(func() {
			for i := range 12 {
				content := testutil.RandomBytes((i%4+1)*700*kib + worker)
				g := u.Grow(digest.FromBytes(content), []int64{int64(len(content)), -1}[i%2])
				slow := newReader(t, g, 0)
				pulled := make(chan error)
				go func() {
					err := pull(WithGrowing(ctx, g), repository(t, u, "r"), g.Digest(), content)
					g.Finish(err)
					pulled <- err
				}()
				got := make([]byte, len(content))
				for off := 0; off < len(got); off += 300 * kib {
					if _, err := io.ReadFull(slow, got[off:min(off+300*kib, len(got))]); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Millisecond)
				}
				if !bytes.Equal(got, content) {
					t.Error("wrong bytes")
				}
				<-pulled
				_ = slow.Close()
				g.Close()
			}
		})
	}
	workers.Wait()
	close(done)
	watch.Wait()
	st := s.Stats()
	if most > limit || most < limit/2 || st.Evictions == 0 {
		t.Errorf("the kernel counted %d of %d, %+v", most, limit, st)
	}
	checkCount(t, s)
	if real := diskUsed(t, root); real != st.UsedBytes {
		t.Errorf("the kernel counts %d, the store %d", real, st.UsedBytes)
	}
	_ = s.Close()
}

// TestDiskSmallerThanTheLimit checks that no pull fails if the disk is smaller than the limit, or filled by other
// files.
func TestDiskSmallerThanTheLimit(t *testing.T) {
	root := mountDisk(t, 6*mib)
	s := openStore(t, testOptions(root, 64*mib))
	u := upstream(t, s)
	var last digest.Digest
	for i := range 30 {
		content := testutil.RandomBytes(900 * kib)
		g := u.Grow(digest.FromBytes(content), []int64{int64(len(content)), -1}[i%2])
		r := newReader(t, g, 0)
		pulled := make(chan error)
		go func() {
			err := pull(WithGrowing(ctx, g), repository(t, u, "r"), g.Digest(), content)
			g.Finish(err)
			pulled <- err
		}()
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err := <-pulled; err == nil {
			last = g.Digest()
		}
		_ = r.Close()
		g.Close()
		if err := u.PutContent(ctx, fmt.Sprint("/manifests/", i), content[:2*kib]); err != nil {
			t.Error(err)
		}
	}
	if !has(t, u, "r", last) {
		t.Error("nothing is stored on a full disk")
	}
	if st := s.Stats(); st.Evictions < 5 || st.Unkept > 2 {
		t.Errorf("%+v", st)
	}
	checkCount(t, s)
	_ = s.Close()
}

// TestFilesRemovedByOthers checks that content is stored again after another process has removed all files, or the directory
// itself.
func TestFilesRemovedByOthers(t *testing.T) {
	for _, below := range []string{"", "/tmp", "/upstreams", "/upstreams/one/docker"} {
		var log bytes.Buffer
		opts := testOptions(t.TempDir()+"/store", 64*mib)
		opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
		s := openStore(t, opts)
		u := upstream(t, s)
		old := testutil.RandomBytes(mib)
		d := keep(t, u, "r", old)
		for range 3 {
			if err := os.RemoveAll(s.diskPath(below)); err != nil {
				t.Fatal(err)
			}
			content := testutil.RandomBytes(2 * mib)
			for _, c := range [][]byte{content, old} { // in new and in previously existing directories
				b, err := u.Open(ctx, "r", digest.FromBytes(c))
				if errors.Is(err, fs.ErrNotExist) {
					keep(t, u, "r", c)
					b, err = u.Open(ctx, "r", digest.FromBytes(c))
				}
				if err != nil {
					t.Fatalf("%q: %v", below, err)
				}
				if read, err := readAll(b); err != nil || !bytes.Equal(read, c) {
					t.Errorf("%q: %d bytes, %v", below, len(read), err)
				}
				_ = b.Close()
			}
			small := testutil.RandomBytes(kib)
			if err := u.PutContent(ctx, "/docker/small", small); err != nil {
				t.Fatal(err)
			}
			if got, err := u.GetContent(ctx, "/docker/small"); err != nil || !bytes.Equal(got, small) {
				t.Errorf("%q: small content: %v", below, err)
			}
		}
		if n := strings.Count(log.String(), "removed directories"); n != 1 {
			t.Errorf("%q: logged %d times: %s", below, n, &log)
		}
		s, u = reopen(t, s)
		if !has(t, u, "r", d) {
			t.Errorf("%q: not there after a restart", below)
		}
		checkCount(t, s)
		_ = s.Close()
	}
}
