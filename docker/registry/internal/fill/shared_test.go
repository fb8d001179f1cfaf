// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

// TestShare serves what one repository brought to others, or not.
func TestShare(t *testing.T) {
	for _, share := range []bool{true, false} {
		c := newCache(t, func(o *Options) { o.Share = share })
		content := randomBytes(mib)
		d := c.add(content)
		goOn := make(chan struct{})
		c.script = func(ctx context.Context, q route.Request, s *sink) error {
			<-goOn
			_, err := s.Write(s.content)
			return err
		}
		var clients sync.WaitGroup
		for _, repository := range []string{"a", "b"} {
			clients.Go(func() { wantBlob(t, repository, c.get(blob(repository, d)), content) })
		}
		want := map[bool]int64{true: 1, false: 2}[share]
		until(t, "both ask", func() bool { st := c.Handler.Stats(); return st.Fetches+st.Shared == 2 && c.fetches.Load() == want })
		close(goOn)
		clients.Wait()
		until(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
		if a := c.ask(t.Context(), http.MethodHead, blob("c", d)); a.status != 200 {
			t.Errorf("HEAD: %d", a.status)
		}
		wantBlob(t, "c", c.get(blob("c", d)), content)
		if !share {
			want = 3
		}
		if n := c.fetches.Load(); n != want {
			t.Errorf("share %v: %d fetches, want %d", share, n, want)
		}
	}
}

// TestSharedFillFails for each repository by its own error, which is remembered.
func TestSharedFillFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, func(o *Options) { o.Share = true })
		c.script = func(ctx context.Context, q route.Request, _ *sink) error {
			if err := pause(ctx, time.Second); err != nil {
				return err
			}
			return &route.Refusal{Status: 403, Code: "DENIED", Message: "not for " + q.Repository}
		}
		const repositories = rounds + 3
		for range 2 {
			var clients sync.WaitGroup
			for i := range repositories {
				repository := fmt.Sprint("r", i)
				clients.Go(func() {
					a := c.get(blob(repository, digest.FromString("x")))
					if a.status != 403 || !strings.Contains(string(a.body), "not for "+repository) {
						t.Errorf("%s: %d %s", repository, a.status, a.body)
					}
				})
			}
			clients.Wait()
			if n := c.fetches.Load(); n != repositories {
				t.Errorf("%d fetches", n)
			}
		}
	})
}

// TestSHA512 is stored under another name than it is asked by.
func TestSHA512(t *testing.T) {
	c := newCache(t, func(o *Options) { o.Share = true })
	content := randomBytes(100 * kib)
	d := digest.SHA512.FromBytes(content)
	c.put(d, content)
	for range 2 {
		a := c.get(blob("a/b", d))
		wantBlob(t, "blob", a, content)
		if got := a.header.Get("Docker-Content-Digest"); got != string(d) {
			t.Error(got)
		}
		until(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
	}
	if n := c.fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}
