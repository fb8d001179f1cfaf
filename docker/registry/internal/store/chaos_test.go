// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestChaos runs all operations concurrently on a store that is too small, with an occasionally full disk, readers that
// leave, and restarts. No reader gets a wrong byte or is cut without a reason, and the disk usage never exceeds the
// limit.
func TestChaos(t *testing.T) {
	const limit = 3 * mib
	root := t.TempDir()
	var contents [][]byte
	var digests []digest.Digest
	for i := range 40 {
		b := make([]byte, 1+(i*i*613)%(900*kib))
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(b)
		contents, digests = append(contents, b), append(digests, digest.FromBytes(b))
	}
	var whole, kept atomic.Int64
	for round := range 3 {
		opts := testOptions(root, limit)
		opts.Window = 128 * kib
		s := openStore(t, opts)
		u := upstream(t, s)
		var faults atomic.Int64
		s.fault = func(step string) error {
			if step != "remove" && step != "read" && rand.IntN(60) == 0 {
				faults.Add(1)
				return &fs.PathError{Op: step, Path: "x", Err: []error{syscall.ENOSPC, syscall.EIO}[rand.IntN(2)]}
			}
			return nil
		}
		done := make(chan struct{})
		var watch sync.WaitGroup
		watch.Go(func() {
			for {
				s.tree.Lock() // otherwise both a removed file and its replacement could be counted
				real := du0(root)
				s.tree.Unlock()
				if real > limit {
					t.Errorf("the disk holds %d", real)
				}
				select {
				case <-done:
					return
				case <-time.After(2 * time.Millisecond):
				}
			}
		})
		var workers sync.WaitGroup
		for worker := range 6 {
			workers.Go(func() {
				r := rand.New(rand.NewPCG(uint64(round), uint64(worker)))
				for range 40 {
					i := r.IntN(len(contents))
					content, d := contents[i], digests[i]
					repo := fmt.Sprint("r", r.IntN(2))
					b, err := u.Open(ctx, repo, d)
					switch {
					case err == nil:
						got, err := readAll(b)
						if err != nil || !bytes.Equal(got, content) {
							t.Errorf("stored: %d of %d bytes, %v", len(got), len(content), err)
						}
						if r.IntN(10) == 0 {
							_ = u.Delete(ctx, dataPath(d))
						}
						_ = b.Close()
						kept.Add(1)
					case errors.Is(err, fs.ErrNotExist):
						fill(t, u, repo, d, content, r)
						whole.Add(1)
					default:
						t.Error(err)
					}
				}
			})
		}
		workers.Wait()
		close(done)
		watch.Wait()
		if st := s.Stats(); st.Corrupt != 0 || st.OpenReaders != 0 || st.PeakBytes > limit || s.windows != 0 {
			t.Errorf("%+v, windows %d", st, s.windows)
		}
		if faults.Load() == 0 {
			t.Error("no faults")
		}
		checkCount(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if kept.Load() == 0 || whole.Load() == 0 {
		t.Errorf("%d read, %d fetched", kept.Load(), whole.Load())
	}
}

// fill fetches a blob for several readers, some of which leave.
func fill(t *testing.T, u *Upstream, repo string, d digest.Digest, content []byte, r *rand.Rand) {
	size := int64(len(content))
	if r.IntN(3) == 0 {
		size = -1
	}
	g := u.Grow(d, size)
	var readers sync.WaitGroup
	for range r.IntN(4) {
		c, cancel := context.WithCancel(ctx)
		off := r.Int64N(int64(len(content)))
		leaves := r.IntN(4) == 0
		reader, err := g.NewReader(c, off)
		if err != nil {
			t.Error(err)
			cancel()
			continue
		}
		sends := r.IntN(2) == 0
		readers.Go(func() {
			defer cancel()
			defer reader.Close()
			if leaves {
				_, _ = io.CopyN(io.Discard, reader, 10*kib)
				return
			}
			var got bytes.Buffer
			var err error
			if sends {
				_, err = reader.CopyN(&got, int64(len(content))-off)
			} else {
				_, err = io.Copy(&got, struct{ io.Reader }{reader})
			}
			if err != nil || !bytes.Equal(got.Bytes(), content[off:]) {
				t.Errorf("%d of %d bytes from %d, %v", got.Len(), len(content), off, err)
			}
		})
	}
	c := WithGrowing(ctx, g)
	err := errors.New("not begun")
	for try := 0; try < 2 && err != nil; try++ { // the second attempt continues where the first one failed
		err = pull(c, repository(t, u, repo), d, content)
		if st, _ := g.State(); st != InProgress {
			break
		}
	}
	g.Finish(err)
	g.Close()
	readers.Wait()
}
