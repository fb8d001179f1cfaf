// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestUsageMatchesDisk writes, moves, cancels and drops at random in several goroutines. Then the count must agree with du.
func TestUsageMatchesDisk(t *testing.T) {
	const limit = 2 * mib
	s, u := testStore(t, limit)
	var workers sync.WaitGroup
	for worker := range 4 {
		workers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 1))
			for i := range 60 {
				content := []byte(strings.Repeat(fmt.Sprint(r.IntN(40), " "), 1+r.IntN(30)*kib))
				d := digest.FromBytes(content)
				repo := fmt.Sprint("r", r.IntN(5))
				tag := fmt.Sprintf("%s%s/_manifests/tags/t%d/", reposDir, repo, r.IntN(3))
				at := fmt.Sprintf("%s%s/_uploads/%d-%d", reposDir, repo, worker, i)
				switch r.IntN(6) {
				case 0, 1:
					_ = u.PutContent(ctx, at+"/startedat", []byte("now"))
					w, err := u.Writer(ctx, at+"/data", false)
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = w.Write(content)
					if r.IntN(3) > 0 && w.Commit(ctx) == nil {
						_ = w.Close()
						_ = u.Move(ctx, at+"/data", dataPath(d))
						_ = u.PutContent(ctx, linkPath(repo, d), []byte(d))
					} else if err := w.Cancel(ctx); err != nil {
						t.Error(err)
					}
					_ = u.Delete(ctx, at)
				case 2:
					_ = u.PutContent(ctx, linkPath(repo, d), []byte(d))
				case 3:
					_ = u.PutContent(ctx, tag+"index/sha256/"+d.Encoded()+"/link", []byte(d))
					_ = u.PutContent(ctx, tag+"current/link", []byte(d))
				case 4:
					s.mu.Lock()
					b := s.blobs[blobKey{upstream: "one", digest: d}]
					s.mu.Unlock()
					if b != nil {
						s.drop(b, false)
					}
				case 5:
					if b, err := u.Open(ctx, repo, d); err == nil {
						_ = u.Delete(ctx, dataPath(d))
						_ = b.Close()
					}
				}
			}
		})
	}
	workers.Wait()
	checkCount(t, s)
	if st := s.Stats(); st.PeakBytes > limit || st.Evictions == 0 {
		t.Errorf("%+v", st)
	}
	s, _ = reopen(t, s)
	checkCount(t, s)
	for s.evictOldest(nil) {
	}
	checkCount(t, s)
	if left, _ := os.ReadDir(s.diskPath(upstreamPath + "/one")); len(left) > 0 {
		t.Errorf("left on disk: %v", left)
	}
}

// TestDirectoriesGrow fills a directory until it needs more than one block.
func TestDirectoriesGrow(t *testing.T) {
	s, u := testStore(t, 1<<30)
	for i := range 300 {
		d := digest.FromString(fmt.Sprint(i))
		if err := u.PutContent(ctx, linkPath("r", d), []byte(d)); err != nil {
			t.Fatal(err)
		}
	}
	checkCount(t, s)
}

// TestOpenFilesAreCharged checks that the blocks of a dropped blob count until it is closed.
func TestOpenFilesAreCharged(t *testing.T) {
	s, u := testStore(t, 4*mib)
	content := testutil.RandomBytes(2 * mib)
	d := keep(t, u, "r", content)
	open, err := u.Open(ctx, "r", d)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Delete(ctx, dataPath(d)); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.OrphanBytes < 2*mib || st.UsedBytes < 2*mib {
		t.Errorf("%+v", st)
	}
	if s.reserve(3 * mib) {
		t.Error("the room of an open file was reserved")
	}
	if got, err := readAll(open); err != nil || digest.FromBytes(got) != d {
		t.Errorf("cut: %v", err)
	}
	_ = open.Close()
	checkCount(t, s)
	if !s.reserve(3 * mib) {
		t.Error("no room though it was closed")
	}
}

// TestCannotDrop checks that files that cannot be removed still count, and removal is not retried forever.
func TestCannotDrop(t *testing.T) {
	s, u := testStore(t, mib)
	d := keep(t, u, "r", testutil.RandomBytes(500*kib))
	p := s.diskPath(u.path(dataPath(d)))
	if err := errors.Join(os.Remove(p), os.MkdirAll(p+"/in/the/way", 0o755)); err != nil {
		t.Fatal(err)
	}
	if s.reserve(800 * kib) {
		t.Error("took room that is not there")
	}
	if s.used < 500*kib || s.evictable != 0 {
		t.Errorf("counted %d, of which %d can be dropped", s.used, s.evictable)
	}
}
