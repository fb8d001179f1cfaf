// SPDX-License-Identifier: GPL-3.0-or-later

package bounded

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
)

func du(t *testing.T, root string) (used int64) {
	t.Helper()
	err := filepath.WalkDir(root, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			used += fi.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return used
}

func open(t *testing.T, root string, limit int64) *store {
	t.Helper()
	s := newStore(filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 100}), root, limit)
	if err := s.load(); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCountIsTrue writes, moves, cancels and drops at random from several goroutines; then the count must be du's.
func TestCountIsTrue(t *testing.T) {
	var log bytes.Buffer
	logrus.SetOutput(&log)
	defer logrus.SetOutput(os.Stderr)
	const limit = 2 << 20
	root := t.TempDir()
	s := open(t, root, limit)
	ctx := context.Background()
	const repos = "/docker/registry/v2/repositories/"
	var workers sync.WaitGroup
	for worker := range 4 {
		workers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 1))
			for i := range 60 {
				d := digest.FromString(fmt.Sprint(r.IntN(40)))
				repo := fmt.Sprint(repos, "r", r.IntN(5))
				link := fmt.Sprintf("%s/_layers/sha256/%s/link", repo, d.Encoded())
				tag := fmt.Sprintf("%s/_manifests/tags/t%d/", repo, r.IntN(3))
				switch r.IntN(5) {
				case 0, 1:
					up := fmt.Sprintf("%s/_uploads/%d-%d", repo, worker, i)
					_ = s.PutContent(ctx, up+"/startedat", []byte("now"))
					size := r.IntN(300 << 10)
					w, err := s.Writer(WithSize(ctx, int64(size)), up+"/data", false)
					if err != nil {
						t.Error(err)
					}
					_, _ = w.Write(make([]byte, size))
					if r.IntN(3) > 0 && w.Commit(ctx) == nil {
						_ = w.Close()
						_ = s.Move(ctx, up+"/data", fmt.Sprintf("%ssha256/%s/%s/data", blobsDir, d.Encoded()[:2], d.Encoded()))
						_ = s.PutContent(ctx, link, []byte(d))
					} else if err := w.Cancel(ctx); err != nil {
						t.Error(err)
					}
					_ = s.Delete(ctx, up)
				case 2:
					_ = s.PutContent(ctx, link, []byte(d))
				case 3:
					_ = s.PutContent(ctx, tag+"index/sha256/"+d.Encoded()+"/link", []byte(d))
					_ = s.PutContent(ctx, tag+"current/link", []byte(d))
				case 4:
					s.discard(d)
				}
			}
		})
	}
	workers.Wait()
	if strings.Contains(log.String(), "no such file") {
		t.Error("something was not written because a directory went in between")
	}
	if len(s.open) > 0 {
		t.Errorf("%d uploads are still counted", len(s.open))
	}
	check := func(s *store) {
		t.Helper()
		real := du(t, root)
		slack := int64(len(s.nodes)) * block // what a file system keeps in the inode is counted as a block
		if s.used < real || s.used > real+slack || s.used > limit {
			t.Errorf("counted %d, du %d", s.used, real)
		}
		var used, owned int64
		for _, n := range s.nodes {
			used += n.charge
			if n.blob != nil {
				owned += n.charge
			}
		}
		if used != s.used || owned != s.owned || len(s.blobs) != s.order.Len() {
			t.Errorf("sum %d of %d, owned %d of %d, %d blobs, %d in order", used, s.used, owned, s.owned, len(s.blobs), s.order.Len())
		}
	}
	check(s)
	again := open(t, root, limit)
	check(again)
	for _, s := range []*store{again} {
		for {
			if _, ok := s.oldest(); !ok {
				break
			}
		}
		if len(s.nodes) != 1 || s.owned != 0 {
			t.Errorf("%d nodes left when all is dropped", len(s.nodes))
		}
	}
	if left, _ := filepath.Glob(root + "/*"); len(left) > 0 {
		t.Errorf("left on disk: %v", left)
	}
}

// TestDirectoriesGrow fills one directory until it needs more than a block.
func TestDirectoriesGrow(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, 1<<30)
	for i := range 300 {
		d := digest.FromString(fmt.Sprint(i))
		link := fmt.Sprintf("/docker/registry/v2/repositories/r/_layers/sha256/%s/link", d.Encoded())
		if err := s.PutContent(context.Background(), link, []byte(d)); err != nil {
			t.Fatal(err)
		}
	}
	if real := du(t, root); s.used < real {
		t.Errorf("counted %d, du %d", s.used, real)
	}
}

// TestTagThatCannotBeWritten must not name its old manifest any longer.
func TestTagThatCannotBeWritten(t *testing.T) {
	logrus.SetLevel(logrus.PanicLevel)
	s := open(t, t.TempDir(), 1<<20)
	ctx := context.Background()
	const link = "/docker/registry/v2/repositories/r/_manifests/tags/latest/current/link"
	before, after := digest.FromString("before"), digest.FromString("after")
	inode := func() (fi os.FileInfo) {
		fi, err := os.Stat(s.real(link))
		if err != nil {
			t.Fatal(err)
		}
		return fi
	}
	_ = s.PutContent(ctx, link, []byte(before))
	first := inode()
	_ = s.PutContent(ctx, link, []byte(before))
	if !os.SameFile(first, inode()) {
		t.Error("the same content was written again")
	}
	for s.take(block) { // uploads in flight
	}
	if err := s.PutContent(ctx, link, []byte(after)); err != nil {
		t.Errorf("a pull fails for want of room: %v", err)
	}
	if got, err := s.GetContent(ctx, link); err == nil {
		t.Errorf("still %s", got)
	}
}

// TestUploadOfUnknownSize outgrows the room.
func TestUploadOfUnknownSize(t *testing.T) {
	logrus.SetLevel(logrus.PanicLevel)
	root := t.TempDir()
	s := open(t, root, 1<<20)
	ctx := context.Background()
	const upload = "/docker/registry/v2/repositories/r/_uploads/1"
	w, err := s.Writer(ctx, upload+"/data", false)
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if used := du(t, root); used > s.limit {
			t.Errorf("used %d", used)
		}
		if n, err := w.Write(make([]byte, 200<<10)); n != 200<<10 || err != nil {
			t.Errorf("a client would not get all of it: %v", err)
		}
	}
	if _, err := os.Stat(s.real(upload + "/data")); err == nil {
		t.Error("given up, but still on the disk")
	}
	if w.Commit(ctx) == nil {
		t.Error("committed though not kept")
	}
	if err := w.Cancel(ctx); err != nil {
		t.Error(err)
	}
	if err := s.Delete(ctx, upload); err != nil || s.used > 100<<10 {
		t.Errorf("still counted: %d, %v", s.used, err)
	}
}

// faulty fails as often as it is told.
type faulty struct {
	driver.StorageDriver
	times int
	err   error
}

func (f *faulty) fault() error {
	if f.times--; f.times >= 0 {
		return driver.Error{DriverName: "faulty", Detail: &fs.PathError{Err: f.err}}
	}
	return nil
}

func (f *faulty) PutContent(ctx context.Context, p string, content []byte) error {
	if err := f.fault(); err != nil {
		return err
	}
	return f.StorageDriver.PutContent(ctx, p, content)
}

func (f *faulty) Writer(ctx context.Context, p string, add bool) (driver.FileWriter, error) {
	if err := f.fault(); err != nil {
		return nil, err
	}
	return f.StorageDriver.Writer(ctx, p, add)
}

func TestFaults(t *testing.T) {
	logrus.SetLevel(logrus.PanicLevel)
	ctx := context.Background()
	link := func(name string) (string, []byte) {
		d := digest.FromString(name)
		return "/docker/registry/v2/repositories/r/_layers/sha256/" + d.Encoded() + "/link", []byte(d)
	}
	for _, test := range []struct {
		name  string
		err   error
		times int
		kept  bool
		old   bool // what was there before is still there
	}{
		{"a directory went", syscall.ENOENT, 3, true, true},
		{"full, but not when something is dropped", syscall.ENOSPC, 1, true, false},
		{"full whatever is dropped", syscall.ENOSPC, 1000, false, false},
		{"quota", syscall.EDQUOT, 1, true, false},
		{"broken", syscall.EIO, 1, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t, t.TempDir(), 1<<30)
			f := &faulty{StorageDriver: s.StorageDriver, err: test.err}
			s.StorageDriver = f
			old, content := link("old")
			exists := func(p string) bool {
				_, err := os.Stat(s.real(p))
				return err == nil
			}
			for _, write := range []func(string) error{
				func(name string) error {
					p, content := link(name)
					err := s.PutContent(ctx, p, content)
					if exists(p) != test.kept {
						t.Errorf("written: %v", !test.kept)
					}
					return err
				},
				func(name string) error {
					upload := "/docker/registry/v2/repositories/r/_uploads/" + name
					w, err := s.Writer(ctx, upload+"/data", false)
					if err != nil {
						return err
					}
					if _, err := w.Write([]byte(name)); err != nil {
						return err
					}
					if kept := w.Commit(ctx) == nil; kept != test.kept {
						t.Errorf("upload kept: %v", kept)
					}
					return w.Cancel(ctx)
				},
			} {
				_ = s.PutContent(ctx, old, content)
				f.times = test.times
				if err := write("new"); err != nil {
					t.Errorf("a pull fails: %v", err)
				}
				f.times = 0
				if exists(old) != test.old {
					t.Errorf("old: %v", exists(old))
				}
			}
		})
	}
}

// TestCannotDrop keeps counting what it cannot remove, and does not try for ever.
func TestCannotDrop(t *testing.T) {
	logrus.SetLevel(logrus.PanicLevel)
	s := open(t, t.TempDir(), 1<<20)
	d := digest.FromString("stuck")
	p := fmt.Sprintf("%ssha256/%s/%s/data", blobsDir, d.Encoded()[:2], d.Encoded())
	_ = s.PutContent(context.Background(), p, make([]byte, 500<<10))
	if err := os.Remove(s.real(p)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.real(p)+"/in/the/way", 0o755); err != nil {
		t.Fatal(err)
	}
	if s.reserve(800 << 10) {
		t.Error("took room that is not there")
	}
	if s.used < 500<<10 || s.owned != 0 {
		t.Errorf("counted %d, of which %d can be dropped", s.used, s.owned)
	}
}
