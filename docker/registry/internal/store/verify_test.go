// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// damage changes one byte of a blob on disk.
func damage(t testing.TB, u *Upstream, d digest.Digest, off int64) {
	t.Helper()
	f, err := os.OpenFile(u.store.diskPath(u.path(dataPath(d))), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{0}
	_, err = f.ReadAt(b, off)
	b[0] ^= 1
	if err == nil {
		_, err = f.WriteAt(b, off)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestFirstReadVerifies checks that a blob is hashed once after a restart, for all readers, and then served as a file.
func TestFirstReadVerifies(t *testing.T) {
	s, u := testStore(t, 64*mib)
	content := testutil.RandomBytes(8 * mib)
	d := keep(t, u, "r", content)
	b, err := u.Open(ctx, "r", d)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Content().(*os.File); !ok {
		t.Errorf("the process that wrote it serves a %T", b.Content())
	}
	_ = b.Close()
	s, u = reopen(t, s)
	begin := make(chan struct{})
	s.fault = func(string) error { <-begin; return nil }
	var readers sync.WaitGroup
	for range 10 {
		b, err := u.Open(ctx, "r", d)
		if err != nil {
			t.Fatal(err)
		}
		readers.Go(func() {
			if got, err := readAll(b); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			_ = b.Close()
		})
	}
	close(begin)
	readers.Wait()
	b, err = u.Open(ctx, "r", d)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Content().(*os.File); !ok {
		t.Errorf("later it serves a %T", b.Content())
	}
	if st := s.Stats(); st.VerifiedBytes != 8*mib || st.OpenReaders != 1 {
		t.Errorf("%+v", st)
	}
	_ = b.Close()
	checkCount(t, s)
}

// TestDamaged checks that a corrupt blob is never read completely, and is dropped.
func TestDamaged(t *testing.T) {
	for _, size := range []int{mib, 10 * kib} {
		for _, how := range []string{"Open", "Reader", "GetContent", "ranges", "short", "broken"} {
			s, u := testStore(t, 64*mib)
			content := testutil.RandomBytes(size)
			d := keep(t, u, "r", content)
			s, u = reopen(t, s)
			if how == "broken" && size > kib*64 {
				s.fault = func(string) error { return syscall.EIO }
			} else if how == "short" {
				if err := os.Truncate(s.diskPath(u.path(dataPath(d))), int64(size)-5000); err != nil {
					t.Fatal(err)
				}
			} else {
				damage(t, u, d, 100)
			}
			var got []byte
			var err error
			switch how {
			case "GetContent":
				got, err = u.GetContent(ctx, dataPath(d))
			case "Reader":
				var r io.ReadCloser
				if r, err = u.Reader(ctx, dataPath(d), 0); err == nil {
					got, err = io.ReadAll(r)
					_ = r.Close()
				}
			default:
				var b *Blob
				if b, err = u.Open(ctx, "r", d); err == nil {
					if how == "ranges" {
						_, _ = b.Seek(int64(size/2), io.SeekStart)
					}
					got, err = readAll(b)
					_ = b.Close()
				}
			}
			if err == nil || int64(len(got)) > int64(size)-s.opts.Hold {
				t.Errorf("%s: %d of %d bytes, %v", how, len(got), size, err)
			}
			waitFor(t, func() bool { st := s.Stats(); return st.Corrupt == 1 && st.OrphanBytes == 0 })
			if _, ok := u.Has("r", d); ok {
				t.Errorf("%s: still there", how)
			}
			s.fault = func(string) error { return nil }
			checkCount(t, s)
		}
	}
}

// TestNotRegular checks that a blob is dropped if its file was replaced with something that is not a regular file, and
// that no operation blocks on it, as opening a pipe would.
func TestNotRegular(t *testing.T) {
	kinds := map[string]func(p string) error{
		"pipe":            func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"link to a pipe":  func(p string) error { return errors.Join(syscall.Mkfifo(p+"-pipe", 0o600), os.Symlink(p+"-pipe", p)) },
		"link to a file":  func(p string) error { return errors.Join(os.Rename(p+"-old", p+"-file"), os.Symlink(p+"-file", p)) },
		"empty directory": func(p string) error { return os.Mkdir(p, 0o700) },
	}
	open := func(_ *Store, u *Upstream, d digest.Digest) error {
		b, err := u.Open(ctx, "r", d)
		if err != nil {
			return err
		}
		_, err = readAll(b)
		return errors.Join(err, b.Close())
	}
	for kind, put := range kinds {
		for _, by := range []struct {
			name     string
			size     int
			restarts bool
			read     func(*Store, *Upstream, digest.Digest) error
		}{
			{"open", mib, false, open},
			{"open after a restart", mib, true, open},
			{"open of a small one", 10 * kib, true, open},
			{"scrub", mib, true, func(s *Store, u *Upstream, d digest.Digest) error {
				s.opts.ScrubRate = 1 << 40
				s.scrub()
				return open(s, u, d)
			}},
			{"delete", 2 * closeLater, false, func(s *Store, u *Upstream, d digest.Digest) error {
				err := u.Delete(ctx, dataPath(d))
				s.count.corrupt.Add(1) // no blob is corrupt in this case
				return errors.Join(err, open(s, u, d))
			}},
		} {
			t.Run(kind+"/"+by.name, func(t *testing.T) {
				s, u := testStore(t, 64*mib)
				d := keep(t, u, "r", testutil.RandomBytes(by.size))
				if by.restarts {
					s, u = reopen(t, s)
				}
				p := s.diskPath(u.path(dataPath(d)))
				if err := errors.Join(os.Rename(p, p+"-old"), put(p)); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- by.read(s, u, d) }()
				select {
				case err := <-ended:
					if err == nil {
						t.Error("it was read")
					}
				case <-time.After(5 * time.Second):
					t.Error("it hangs")
					for _, name := range []string{p, p + "-pipe"} { // unblocks the reader
						if f, err := os.OpenFile(name, os.O_RDWR|syscall.O_NONBLOCK, 0); err == nil {
							defer f.Close()
						}
					}
					<-ended
				}
				waitFor(t, func() bool { return s.Stats().Corrupt == 1 })
				if _, ok := u.Has("r", d); ok {
					t.Error("still there")
				}
				if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("left: %v", err)
				}
			})
		}
	}
}

// TestPipeAsFormat opens a store whose version file was replaced with a pipe.
func TestPipeAsFormat(t *testing.T) {
	s, _ := testStore(t, 64*mib)
	p := s.diskPath(formatPath)
	if err := errors.Join(s.Close(), os.Remove(p), syscall.Mkfifo(p, 0o600)); err != nil {
		t.Fatal(err)
	}
	hangs := time.AfterFunc(5*time.Second, func() {
		t.Error("it hangs")
		if f, err := os.OpenFile(p, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil { // unblocks the reader
			_ = f.Close()
		}
	})
	defer hangs.Stop()
	openStore(t, s.opts)
	if found, err := os.ReadFile(p); err != nil || string(found) != format {
		t.Errorf("%q, %v", found, err)
	}
}

// waitFor waits until a condition holds.
func waitFor(t testing.TB, so func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("timeout")
		}
	}
}

// TestFirstByteComesAtOnce checks that a blob is not hashed completely before its first byte is available.
func TestFirstByteComesAtOnce(t *testing.T) {
	s, u := testStore(t, 64*mib)
	content := testutil.RandomBytes(mib)
	d := keep(t, u, "r", content)
	s, u = reopen(t, s)
	s.mu.Lock()
	b := s.blobs[blobKey{upstream: "one", digest: d}]
	g := s.newGrowing(d, mib)
	g.verifying = true
	g.node = b.data
	b.checking = g // a verification that the test controls
	s.retainFDLocked(b.data)
	s.mu.Unlock()
	f, err := os.Open(s.diskPath(u.path(dataPath(d))))
	if err != nil {
		t.Fatal(err)
	}
	g.file, g.fileEnd = f, mib
	open, err := u.Open(ctx, "r", d)
	if err != nil {
		t.Fatal(err)
	}
	g.advance(verifyChunk)
	p := make([]byte, verifyChunk)
	if _, err := io.ReadFull(open, p); err != nil || !bytes.Equal(p, content[:verifyChunk]) {
		t.Error(err)
	}
	g.hash.Write(content)
	g.advance(mib - verifyChunk)
	g.complete()
	if rest, err := io.ReadAll(open.Content()); err != nil || len(rest) != mib-verifyChunk {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
	g.Close()
	_ = open.Close()
	checkCount(t, s)
}

// TestScrub checks that the scrub verifies all blobs again after some time, and drops corrupt ones.
func TestScrub(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions(root, MinLimit)
		opts.ScrubRate = mib
		s, err := New(opts)
		if err != nil {
			t.Fatal(err)
		}
		u := upstream(t, s)
		good, bad := keep(t, u, "r", testutil.RandomBytes(2*mib)), keep(t, u, "r", testutil.RandomBytes(mib))
		time.Sleep(23 * time.Hour)
		if n := s.Stats().ScrubbedBytes; n != 0 {
			t.Errorf("%d bytes of what was just written were read", n)
		}
		damage(t, u, bad, 5)
		time.Sleep(time.Hour + 2*time.Minute)
		begun, had := time.Now(), int64(0)
		for s.Stats().ScrubbedBytes < 3*mib {
			time.Sleep(100 * time.Millisecond)
			if n := s.Stats().ScrubbedBytes; n > 0 && had == 0 {
				begun, had = time.Now(), n
			}
			if time.Since(begun) > time.Hour {
				t.Fatal("it does not end")
			}
		}
		time.Sleep(time.Second)
		st := s.Stats()
		if st.Corrupt != 1 || has(t, u, "r", bad) || !has(t, u, "r", good) {
			t.Errorf("%+v", st)
		}
		time.Sleep(22 * time.Hour)
		if n := s.Stats().ScrubbedBytes; n != 3*mib {
			t.Errorf("%d bytes were read in a day", n)
		}
		time.Sleep(3 * time.Hour)
		if n := s.Stats().ScrubbedBytes; n != 5*mib {
			t.Errorf("%d bytes were read in two days", n)
		}
		checkCount(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestScrubRate checks that the scrub does not exceed its rate.
func TestScrubRate(t *testing.T) {
	s, u := testStore(t, 64*mib)
	first := keep(t, u, "r", testutil.RandomBytes(3*mib+1))
	keep(t, u, "r", testutil.RandomBytes(mib-1))
	s, u = reopen(t, s)
	if _, err := u.Stat(ctx, dataPath(first)); err != nil {
		t.Fatal(err)
	}
	s.opts.ScrubRate = mib
	synctest.Test(t, func(t *testing.T) {
		c := s.ctx
		defer func() { s.ctx = c }()
		s.ctx = t.Context()
		begun := time.Now()
		s.scrub()
		if d := time.Since(begun); d < 3900*time.Millisecond || d > 4200*time.Millisecond {
			t.Errorf("4 MiB at 1 MiB/s took %s", d)
		}
		if s.order.Front().Value.(*blob).key.digest != first {
			t.Error("the scrub counts as use")
		}
		for _, b := range s.blobs {
			if b.verified.IsZero() {
				t.Error("not found right")
			}
		}
		s.mu.Lock()
		b := s.blobs[blobKey{upstream: "one", digest: first}]
		b.verified = time.Time{}
		s.mu.Unlock()
		go func() { s.scrub() }()
		time.Sleep(time.Second)
		if !s.reserve(s.opts.Limit - 512*kib) {
			t.Error("a blob that is scrubbed cannot be dropped")
		}
		s.release(s.opts.Limit - 512*kib)
		time.Sleep(time.Second)
		synctest.Wait()
	})
	checkCount(t, s)
}

// TestFileRemovedByOthers removes or truncates the file of a verified blob. The blob is dropped, and can be stored again.
func TestFileRemovedByOthers(t *testing.T) {
	for _, size := range []int{mib, 10 * kib} {
		for how, touch := range map[string]func(string) error{
			"removed": os.Remove,
			"cut":     func(name string) error { return os.Truncate(name, 5000) },
			"longer":  func(name string) error { return os.Truncate(name, 2*mib) },
		} {
			s, u := testStore(t, 64*mib)
			content := testutil.RandomBytes(size)
			d := keep(t, u, "r", content)
			if err := touch(s.diskPath(u.path(dataPath(d)))); err != nil {
				t.Fatal(err)
			}
			if b, err := u.Open(ctx, "r", d); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %+v, %v", how, b, err)
			}
			if _, ok := u.Has("r", d); ok {
				t.Errorf("%s: the store still has it", how)
			}
			checkCount(t, s)
			keep(t, u, "r", content)
			if !has(t, u, "r", d) {
				t.Errorf("%s: not stored again", how)
			}
		}
	}
}

// TestUnreadable checks that unreadable blobs are dropped, and blobs that cannot be opened for lack of file descriptors
// are kept.
func TestUnreadable(t *testing.T) {
	for _, size := range []int{mib, 10 * kib} {
		s, u := testStore(t, 64*mib)
		d := keep(t, u, "r", testutil.RandomBytes(size))
		p := s.diskPath(u.path(dataPath(d)))
		// A loop of symbolic links cannot be opened. The error is neither a missing file nor a lack of file
		// descriptors.
		if err := errors.Join(os.Remove(p), os.Symlink(p, p)); err != nil {
			t.Fatal(err)
		}
		if b, err := u.Open(ctx, "r", d); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v, %v", b, err)
		}
		if st := s.Stats(); st.Corrupt != 1 || has(t, u, "r", d) {
			t.Errorf("%+v", st)
		}
	}
	s, u := testStore(t, 64*mib)
	d := keep(t, u, "r", testutil.RandomBytes(mib))
	b := s.blobs[blobKey{upstream: u.name, digest: d}]
	s.dropCorrupt(b, b.data, &fs.PathError{Op: "open", Path: "x", Err: syscall.EMFILE})
	if st := s.Stats(); st.Corrupt != 0 || !has(t, u, "r", d) {
		t.Errorf("%+v", st)
	}
}

// TestKnownToBeWrong checks that a blob that was found corrupt cannot be read before it is dropped.
func TestKnownToBeWrong(t *testing.T) {
	s, u := testStore(t, 64*mib)
	d := keep(t, u, "r", testutil.RandomBytes(mib))
	b := s.blobs[blobKey{upstream: u.name, digest: d}]
	b.verified = time.Time{}
	b.checking = s.newGrowing(d, mib)
	b.checking.Finish(ErrCorrupt)
	if blob, err := u.Open(ctx, "r", d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, %v", blob, err)
	}
	if st := s.Stats(); st.Corrupt != 1 || has(t, u, "r", d) {
		t.Errorf("%+v", st)
	}
}

// whenLogged is a log handler that calls a function for every record.
type whenLogged struct {
	slog.Handler
	call func()
}

func (whenLogged) Enabled(context.Context, slog.Level) bool { return true }

func (h whenLogged) Handle(context.Context, slog.Record) error {
	h.call()
	return nil
}

// TestNoReaderAfterFailedVerification checks that no reader starts between a failed verification and the removal of the blob.
func TestNoReaderAfterFailedVerification(t *testing.T) {
	s, u := testStore(t, 64*mib)
	d := keep(t, u, "r", testutil.RandomBytes(mib))
	damage(t, u, d, 0)
	s, u = reopen(t, s)
	var asked atomic.Bool
	s.log = slog.New(whenLogged{slog.DiscardHandler, func() { // logged before it is dropped
		if asked.Swap(true) {
			return
		}
		if b, err := u.Open(ctx, "r", d); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v, %v", b, err)
		}
	}})
	b, err := u.Open(ctx, "r", d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(b); !errors.Is(err, ErrCorrupt) {
		t.Errorf("the first reader: %v", err)
	}
	_ = b.Close()
	waitFor(t, func() bool { return s.Stats().Corrupt == 1 })
	if has(t, u, "r", d) {
		t.Error("the corrupt blob was kept")
	}
}

// TestChangedByOthers checks that a verified file is verified again after another process has modified or replaced it.
func TestChangedByOthers(t *testing.T) {
	s, u := testStore(t, 64*mib)
	now := time.Now()
	s.now = func() time.Time { return now }
	content := testutil.RandomBytes(mib)
	d := keep(t, u, "r", content)
	p := s.diskPath(u.path(dataPath(d)))
	put := testutil.RandomBytes(2 * mib)
	if err := u.PutContent(ctx, dataPath(digest.FromBytes(put)), put); err != nil {
		t.Fatal(err)
	}
	served := func(what, path string, want []byte, file bool) {
		t.Helper()
		r, err := u.Reader(ctx, path, 0)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer r.Close()
		if _, isFile := r.(*Blob).Content().(*os.File); isFile != file {
			t.Errorf("%s: a %T", what, r.(*Blob).Content())
		}
		if got, err := io.ReadAll(r); want != nil && (err != nil || !bytes.Equal(got, want)) || want == nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %d bytes, %v", what, len(got), err)
		}
	}
	time.Sleep(20 * time.Millisecond) // granularity of file times
	for range 3 {                     // updates of the access time do not count as changes
		served("as it was stored", dataPath(d), content, true)
		served("as it was put", dataPath(digest.FromBytes(put)), put, true)
		now = now.Add(2 * touchEvery)
	}
	if err := errors.Join(os.WriteFile(p+".new", content, 0o600), os.Rename(p+".new", p)); err != nil {
		t.Fatal(err)
	}
	served("replaced by the same", dataPath(d), content, false)
	served("found right", dataPath(d), content, true)
	s.scrubBlob(s.blobs[blobKey{upstream: u.name, digest: d}])
	served("scrubbed", dataPath(d), content, true)
	time.Sleep(20 * time.Millisecond)
	damage(t, u, d, 100)
	served("damaged", dataPath(d), nil, false)
	for end := time.Now().Add(10 * time.Second); s.Stats().Corrupt == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not dropped: %+v", s.Stats())
		}
	}
	if has(t, u, "r", d) {
		t.Error("wrong bytes were kept")
	}
}
