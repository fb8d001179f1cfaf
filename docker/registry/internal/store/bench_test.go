// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// BenchmarkLoad opens a store with 3,000 blobs, each with a link.
func BenchmarkLoad(b *testing.B) {
	s, u := testStore(b, 1<<30)
	for i := range 3000 {
		content := []byte(fmt.Sprint(i))
		d := digest.FromBytes(content)
		if err := errors.Join(u.PutContent(ctx, dataPath(d), content), u.PutContent(ctx, linkPath("r", d), []byte(d))); err != nil {
			b.Fatal(err)
		}
	}
	_ = s.Close()
	for b.Loop() {
		again := newStore(s.opts)
		if err := again.open(); err != nil {
			b.Fatal(err)
		}
		_ = again.Close()
	}
}

func BenchmarkOpen(b *testing.B) {
	for name, size := range map[string]int{"small": 2 * kib, "large": 1 * mib} {
		b.Run(name, func(b *testing.B) {
			_, u := testStore(b, 64*mib)
			d := keep(b, u, "r", testutil.RandomBytes(size))
			b.ReportAllocs()
			for b.Loop() {
				blob, err := u.Open(ctx, "r", d)
				if err != nil {
					b.Fatal(err)
				}
				_ = blob.Close()
			}
		})
	}
}

// BenchmarkFill writes a blob of 32 MiB in pieces of 32 KiB for some readers.
func BenchmarkFill(b *testing.B) {
	for _, n := range []int{0, 1, 100} {
		for name, limit := range map[string]int64{"kept": 256 * mib, "window": 16 * mib} {
			b.Run(name+"/"+[]string{"nobody", "one", "hundred"}[min(n, 2)], func(b *testing.B) {
				s := openStore(b, testOptions(b.TempDir(), limit))
				u := upstream(b, s)
				content := testutil.RandomBytes(32 * mib)
				d := digest.FromBytes(content)
				b.SetBytes(32 * mib)
				b.ReportAllocs()
				for b.Loop() {
					g := u.Grow(d, 32*mib)
					var readers sync.WaitGroup
					for range n {
						r, err := g.NewReader(ctx, 0)
						if err != nil {
							b.Fatal(err)
						}
						readers.Go(func() {
							if _, err := r.CopyN(io.Discard, 32*mib); err != nil {
								b.Error(err)
							}
							_ = r.Close()
						})
					}
					for p := content; len(p) > 0; p = p[32*kib:] {
						if _, err := g.Write(p[:32*kib]); err != nil {
							b.Fatal(err)
						}
					}
					readers.Wait()
					g.Close()
				}
			})
		}
	}
}
