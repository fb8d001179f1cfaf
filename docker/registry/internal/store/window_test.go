// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestRing compares the window with a slice.
func TestRing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	w := &window{buf: make([]byte, 97)}
	var all []byte
	for range 2000 {
		p := make([]byte, r.IntN(120))
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		all = append(all, p[:w.put(p)]...)
		if w.high != int64(len(all)) || w.high-w.low > 97 {
			t.Fatalf("from %d to %d, %d written", w.low, w.high, len(all))
		}
		off := w.low + r.Int64N(w.high-w.low+1)
		got := make([]byte, r.IntN(120))
		got = got[:w.get(got, off, w.high)]
		if !bytes.Equal(got, all[off:off+int64(len(got))]) {
			t.Fatalf("wrong bytes at %d", off)
		}
		w.low += r.Int64N(w.high - w.low + 1)
	}
}

// TestLargerThanTheLimit checks that a blob that cannot be stored reaches all readers, and nothing is evicted for it.
func TestLargerThanTheLimit(t *testing.T) {
	s, u := testStore(t, 8*mib)
	s.opts.Window = 256 * kib
	small := keep(t, u, "r", testutil.RandomBytes(100*kib))
	content := testutil.RandomBytes(20 * mib)
	d := digest.FromBytes(content)
	g := u.Grow(d, 20*mib)
	var readers sync.WaitGroup
	for i := range 4 {
		r := newReader(t, g, int64(i)*5*mib)
		readers.Go(func() {
			defer r.Close()
			var got bytes.Buffer
			var err error
			if i%2 == 0 {
				_, err = io.Copy(&got, struct{ io.Reader }{r})
			} else {
				_, err = r.CopyN(&got, int64(20-5*i)*mib)
			}
			if err != nil || !bytes.Equal(got.Bytes(), content[i*5*mib:]) {
				t.Errorf("from %d MiB: %d bytes, %v", i*5, got.Len(), err)
			}
		})
	}
	if err := pull(WithGrowing(ctx, g), repository(t, u, "r"), d, content); !errors.Is(err, ErrNotKept) {
		t.Errorf("committed: %v", err)
	}
	readers.Wait()
	if _, err := g.NewReader(ctx, 0); !errors.Is(err, ErrPassed) {
		t.Errorf("a reader that is too late gets %v", err)
	}
	g.Close()
	st := s.Stats()
	if _, ok := u.Has("r", small); !ok || st.PeakBytes > 8*mib || st.Unkept != 1 || st.Windows != 1 || s.windows != 0 {
		t.Errorf("%+v, windows %d", st, s.windows)
	}
	checkCount(t, s)
}

// TestUnknownSizeOutgrowsTheRoom checks a fill that continues through a window in the middle. Readers of the part in
// the file can continue.
func TestUnknownSizeOutgrowsTheRoom(t *testing.T) {
	s, u := testStore(t, 4*mib)
	content := testutil.RandomBytes(10 * mib)
	d := digest.FromBytes(content)
	g := u.Grow(d, -1)
	slow, fast := newReader(t, g, 0), newReader(t, g, 0)
	var most int64
	ended := make(chan error)
	go func() {
		err := pull(WithGrowing(ctx, g), repository(t, u, "r"), d, content)
		g.Finish(err)
		ended <- err
	}()
	var readers sync.WaitGroup
	for _, r := range []*Reader{slow, fast} {
		readers.Go(func() {
			defer r.Close()
			var got []byte
			p := make([]byte, 100*kib)
			for {
				n, err := r.Read(p)
				got = append(got, p[:n]...)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Error(err)
					break
				}
				if r == slow {
					most = max(most, du0(s.opts.Path))
				}
			}
			if !bytes.Equal(got, content) {
				t.Errorf("%d bytes", len(got))
			}
		})
	}
	if err := <-ended; !errors.Is(err, ErrNotKept) {
		t.Error(err)
	}
	readers.Wait()
	g.Close()
	if st := s.Stats(); st.PeakBytes > 4*mib || most > 4*mib || st.PeakBytes < 3*mib {
		t.Errorf("%+v, disk %d", st, most)
	}
	checkCount(t, s)
}

// TestFullDisk makes all writes fail from some point on. No reader is cut.
func TestFullDisk(t *testing.T) {
	for _, test := range []struct {
		step string
		nth  int
		err  error
	}{
		{"create", 1, syscall.ENOSPC}, {"write", 1, syscall.ENOSPC}, {"write", 20, syscall.ENOSPC},
		{"write", 20, syscall.EDQUOT}, {"write", 3, syscall.EIO}, {"fsync", 1, syscall.ENOSPC}, {"rename", 1, syscall.ENOSPC},
	} {
		for _, size := range []int64{mib, -1} {
			t.Run(fmt.Sprint(test, size), func(t *testing.T) {
				s, u := testStore(t, 64*mib)
				content := testutil.RandomBytes(mib)
				d := digest.FromBytes(content)
				left := test.nth
				s.fault = func(at string) error {
					if at == test.step {
						if left--; left <= 0 {
							return &fs.PathError{Op: at, Path: "x", Err: test.err}
						}
					}
					return nil
				}
				g := u.Grow(d, size)
				r := newReader(t, g, 0)
				ended := make(chan error)
				go func() {
					err := pull(WithGrowing(ctx, g), repository(t, u, "r"), d, content)
					g.Finish(err)
					ended <- err
				}()
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				if <-ended == nil {
					t.Error("kept?")
				}
				g.Close()
				_ = r.Close()
				s.fault = func(string) error { return nil }
				if st := s.Stats(); st.Unkept != 1 {
					t.Errorf("%+v", st)
				}
				checkCount(t, s)
				if left, _ := os.ReadDir(s.diskPath(tmpPath)); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			})
		}
	}
}

// TestWindowIsAsFastAsTheSlowest checks that a window waits for a slow reader above the minimum rate, and drops one
// below it.
func TestWindowIsAsFastAsTheSlowest(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions(root, mib)
		opts.Window, opts.MinRate, opts.Patience = 64*kib, 16*kib, 10*time.Second
		s := newStore(opts)
		if err := s.open(); err != nil {
			t.Fatal(err)
		}
		u := upstream(t, s)
		content := testutil.RandomBytes(2 * mib)
		g := u.Grow(digest.FromBytes(content), 2*mib)
		result := map[string]error{}
		var mu sync.Mutex
		var readers sync.WaitGroup
		for name, rate := range map[string]int{
			"fast": 1 << 30, "slow": 20 * kib, "too slow": 12 * kib, "stopped": -80, "stopped at 100": -100, "stopped at 120": -120,
		} {
			r := newReader(t, g, 0)
			readers.Go(func() {
				defer r.Close()
				p := make([]byte, kib)
				var err error
				var got []byte
				for err == nil {
					n := 0
					n, err = r.Read(p)
					got = append(got, p[:n]...)
					if rate <= 0 && len(got) > -rate*kib {
						time.Sleep(time.Hour)
					} else if rate > 0 {
						time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
					}
				}
				if errors.Is(err, io.EOF) && !bytes.Equal(got, content) {
					t.Errorf("%s: %d bytes", name, len(got))
				}
				mu.Lock()
				result[name] = err
				mu.Unlock()
			})
		}
		begun := time.Now()
		if _, err := g.Write(content); err != nil {
			t.Error(err)
		}
		took := time.Since(begun)
		t.Logf("%s", took)
		g.Close()
		readers.Wait()
		if s.Stats().SlowReaders != 4 || !errors.Is(result["stopped at 120"], ErrTooSlow) || !errors.Is(result["stopped"], ErrTooSlow) || !errors.Is(result["too slow"], ErrTooSlow) ||
			!errors.Is(result["slow"], io.EOF) || !errors.Is(result["fast"], io.EOF) {
			t.Errorf("%v, %+v", result, s.Stats())
		}
		if took < 90*time.Second || took > 115*time.Second {
			t.Errorf("it took %s, where the slow one needs 102 s", took)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestWindowWithoutReaders checks that a window moves on without readers, and that readers can join until bytes are lost.
func TestWindowWithoutReaders(t *testing.T) {
	s, u := testStore(t, mib)
	s.opts.Window = 128 * kib
	content := testutil.RandomBytes(3 * mib)
	g := u.Grow(digest.FromBytes(content), 3*mib)
	if _, err := g.Write(content[:128*kib]); err != nil {
		t.Fatal(err)
	}
	if used := s.Stats().UsedBytes; used > 100*kib {
		t.Errorf("%d bytes on disk for content that is not stored", used)
	}
	early := newReader(t, g, 0)
	if got := readable(t, early); !bytes.Equal(got, content[:128*kib]) {
		t.Errorf("%d bytes", len(got))
	}
	_ = early.Close()
	if _, err := g.Write(content[128*kib:]); err != nil {
		t.Fatal(err)
	}
	if _, err := g.NewReader(ctx, 0); !errors.Is(err, ErrPassed) {
		t.Error(err)
	}
	end := newReader(t, g, 3*mib-128*kib)
	if got := readable(t, end); !bytes.Equal(got, content[3*mib-128*kib:]) {
		t.Errorf("%d bytes", len(got))
	}
	g.Close()
	_ = end.Close()
	checkCount(t, s)
}

// TestUnneededFileIsReleased checks that the file of a fill that continues through a window is released when no reader can
// need it.
func TestUnneededFileIsReleased(t *testing.T) {
	s, u := testStore(t, 4*mib)
	content := testutil.RandomBytes(8 * mib)
	g := u.Grow(digest.FromBytes(content), -1)
	r := newReader(t, g, 0)
	go func() {
		slowly(g, content)
		g.Finish(nil)
	}()
	if n, err := r.CopyN(io.Discard, mib); err != nil {
		t.Fatal(n, err)
	}
	waitFor(t, g.Windowed)
	if used := s.Stats().UsedBytes; used < 2*mib {
		t.Errorf("used %d: bytes that the reader needs are gone", used)
	}
	if n, err := r.CopyN(io.Discard, 6*mib); err != nil {
		t.Fatal(n, err)
	}
	waitFor(t, func() bool { return s.Stats().UsedBytes < mib })
	if n, err := r.CopyN(io.Discard, mib); err != nil {
		t.Fatal(n, err)
	}
	g.Close()
	_ = r.Close()
	checkCount(t, s)
}

// TestManyFillsSlowReaders uses a store of 64 MiB, 8 fills of 14 MiB and 16 slow readers.
func TestManyFillsSlowReaders(t *testing.T) {
	s, u := testStore(t, 64*mib)
	var before, after runtime.MemStats
	contents := make([][]byte, 8)
	for i := range contents {
		contents[i] = make([]byte, 14*mib)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(contents[i])
	}
	runtime.GC()
	runtime.ReadMemStats(&before)
	var most, memory int64
	done := make(chan struct{})
	var watch, fills, readers sync.WaitGroup
	watch.Go(func() {
		for {
			s.tree.Lock() // otherwise removed files could be counted twice
			real := du0(s.opts.Path) + s.Stats().OrphanBytes
			s.tree.Unlock()
			most = max(most, real)
			runtime.ReadMemStats(&after)
			memory = max(memory, int64(after.HeapInuse))
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	for i, content := range contents {
		d := digest.FromBytes(content)
		g := u.Grow(d, int64(len(content)))
		for range 2 {
			r := newReader(t, g, 0)
			readers.Go(func() {
				defer r.Close()
				p := make([]byte, 128*kib)
				for off := 0; ; {
					n, err := r.Read(p)
					if !bytes.Equal(p[:n], content[off:off+n]) {
						t.Errorf("fill %d: wrong bytes at %d", i, off)
					}
					if off += n; off == len(content) {
						return
					}
					if err != nil {
						t.Errorf("fill %d: cut at %d: %v", i, off, err)
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		fills.Go(func() {
			err := pull(WithGrowing(ctx, g), repository(t, u, "r"), d, content)
			g.Finish(err)
			g.Close()
		})
	}
	fills.Wait()
	readers.Wait()
	close(done)
	watch.Wait()
	st := s.Stats()
	t.Logf("disk %d MiB, peak counted %d MiB, windows %d, heap %d MiB more", most/mib, st.PeakBytes/mib, st.Windows, (memory-int64(before.HeapInuse))/mib)
	if most > 64*mib || st.PeakBytes > 64*mib || memory-int64(before.HeapInuse) > 40*mib {
		t.Error("too much")
	}
	if st.Windows != 4 || st.SlowReaders != 0 {
		t.Errorf("%+v", st)
	}
	checkCount(t, s)
}

// TestBytesAreWrittenOnce checks the kernel's count of written bytes.
func TestBytesAreWrittenOnce(t *testing.T) {
	written := func() (n int64) {
		stat, err := os.ReadFile("/proc/self/io")
		if err != nil {
			t.Skip(err)
		}
		for line := range strings.Lines(string(stat)) {
			_, _ = fmt.Sscanf(line, "write_bytes: %d", &n)
		}
		return n
	}
	_, u := testStore(t, 64*mib)
	begun := written()
	for range 4 {
		content := testutil.RandomBytes(8 * mib)
		g := u.Grow(digest.FromBytes(content), 8*mib)
		r := newReader(t, g, 0)
		if err := pull(WithGrowing(ctx, g), repository(t, u, "r"), g.Digest(), content); err != nil {
			t.Fatal(err)
		}
		if n, err := r.CopyN(io.Discard, 8*mib); err != nil {
			t.Fatal(n, err)
		}
		g.Close()
		_ = r.Close()
	}
	ratio := float64(written()-begun) / (32 * mib)
	t.Logf("%.3f bytes written per byte", ratio)
	if ratio > 1.05 {
		t.Error("too many")
	}
}

// TestHeldLimit fills a store with blobs of a typical size. Their content takes at least 95 % of the limit.
func TestHeldLimit(t *testing.T) {
	s, u := testStore(t, 64*mib)
	for range 90 {
		content := testutil.RandomBytes(mib)
		g := u.Grow(digest.FromBytes(content), mib)
		if err := pull(WithGrowing(ctx, g), repository(t, u, "r"), g.Digest(), content); err != nil {
			t.Fatal(err)
		}
		g.Close()
	}
	var held int64
	for _, b := range s.blobs {
		held += b.size
	}
	if ratio := float64(held) / float64(64*mib); ratio < 0.95 {
		t.Errorf("%.3f of the limit", ratio)
	} else {
		t.Logf("%.3f of the limit", ratio)
	}
	checkCount(t, s)
}
