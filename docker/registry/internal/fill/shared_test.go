// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestShare checks that blobs are shared between repositories only with Options.Share.
func TestShare(t *testing.T) {
	for _, share := range []bool{true, false} {
		c := newCache(t, func(o *Options) { o.Share = share })
		content := testutil.RandomBytes(mib)
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
		testutil.Eventually(t, "both ask", func() bool { st := c.Handler.Stats(); return st.Fetches+st.Shared == 2 && c.fetches.Load() == want })
		close(goOn)
		clients.Wait()
		testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
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

// TestSharedFillFails checks that each repository gets its own error, which is remembered.
func TestSharedFillFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, func(o *Options) { o.Share = true })
		c.script = func(ctx context.Context, q route.Request, _ *sink) error {
			if err := pause(ctx, time.Second); err != nil {
				return err
			}
			return &route.StatusError{Status: 403, Code: "DENIED", Message: "not for " + q.Repository}
		}
		const repositories = maxRounds + 3
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

// TestSHA512 requests a blob by a digest that differs from the one in the store.
func TestSHA512(t *testing.T) {
	c := newCache(t, func(o *Options) { o.Share = true })
	content := testutil.RandomBytes(100 * kib)
	d := digest.SHA512.FromBytes(content)
	c.put(d, content)
	for range 2 {
		a := c.get(blob("a/b", d))
		wantBlob(t, "blob", a, content)
		if got := a.header.Get("Docker-Content-Digest"); got != string(d) {
			t.Error(got)
		}
		testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
	}
	if n := c.fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

// TestSlowRepository checks that a slow repository does not delay clients if another one responds at once. Its fill
// serves all clients and ends the slow one.
func TestSlowRepository(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		synctest.Test(t, func(t *testing.T) {
			c := newCache(t, func(o *Options) { o.Share = true })
			content := testutil.RandomBytes(mib)
			d := c.add(content)
			var ended error
			c.script = func(ctx context.Context, q route.Request, s *sink) error {
				if q.Repository == "silent" {
					ended = pause(ctx, time.Minute)
					return ended
				}
				_, err := s.Write(s.content)
				return err
			}
			var clients sync.WaitGroup
			get := func(repository string, least, most time.Duration) {
				begun := time.Now()
				clients.Go(func() {
					a := c.ask(context.Background(), method, blob(repository, d))
					if method == http.MethodGet {
						wantBlob(t, repository, a, content)
					} else if a.status != 200 || a.header.Get("Content-Length") != fmt.Sprint(mib) {
						t.Errorf("%s: HEAD: %d %v", repository, a.status, a.header)
					}
					if took := time.Since(begun); took < least || took > most {
						t.Errorf("%s: %v", repository, took)
					}
				})
				synctest.Wait()
			}
			get("silent", 0, 1500*time.Millisecond)
			time.Sleep(300 * time.Millisecond)
			for range 10 {
				get("good", otherPatience, otherPatience)
			}
			time.Sleep(500 * time.Millisecond)
			get("late", 0, 700*time.Millisecond)
			clients.Wait()
			synctest.Wait()
			if st := c.Handler.Stats(); c.fetches.Load() != 2 || st.Running != 0 || st.Abandoned != 0 || !errors.Is(ended, errAbandoned) {
				t.Errorf("%d fetches, %+v, the slow one ended with %v", c.fetches.Load(), st, ended)
			}
			wantBlob(t, "the store", c.get(blob("silent", d)), content)
		})
	}
}

// TestSlowUpstreamOfTwoRepositories expects one fetch if the upstream responds within a second, and otherwise one per
// repository.
func TestSlowUpstreamOfTwoRepositories(t *testing.T) {
	for delay, want := range map[time.Duration]int64{900 * time.Millisecond: 1, 9 * time.Second: 2} {
		synctest.Test(t, func(t *testing.T) {
			c := newCache(t, func(o *Options) { o.Share = true })
			content := testutil.RandomBytes(mib)
			d := c.add(content)
			c.script = func(ctx context.Context, _ route.Request, s *sink) error {
				if err := pause(ctx, delay); err != nil {
					return err
				}
				return paced(ctx, s, 100*kib, time.Second)
			}
			var clients sync.WaitGroup
			for i := range 100 {
				clients.Go(func() { wantBlob(t, "client", c.get(blob(fmt.Sprint("r", i%2), d)), content) })
			}
			clients.Wait()
			time.Sleep(2 * time.Second) // it pauses after the last byte
			if st := c.Handler.Stats(); c.fetches.Load() != want || st.Shared != 99 && want == 1 || st.Running != 0 {
				t.Errorf("after %v: %d fetches, %+v", delay, c.fetches.Load(), st)
			}
		})
	}
}

// TestSlowRepositoryContinues checks that a slow fill continues after errors of other repositories, and without
// clients.
func TestSlowRepositoryContinues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, func(o *Options) { o.Share = true })
		content := testutil.RandomBytes(mib)
		d := c.add(content)
		c.script = func(ctx context.Context, q route.Request, s *sink) error {
			if q.Repository == "without" {
				return &route.StatusError{Status: 403, Code: "DENIED", Message: "not for you"}
			}
			if err := pause(ctx, 10*time.Second); err != nil {
				return err
			}
			_, err := s.Write(s.content)
			return err
		}
		ctx, leave := context.WithTimeout(t.Context(), 2*time.Second)
		defer leave()
		go c.ask(ctx, http.MethodGet, blob("slow", d))
		synctest.Wait()
		begun := time.Now()
		if a := c.get(blob("without", d)); a.status != 403 || time.Since(begun) != otherPatience {
			t.Errorf("%d after %v", a.status, time.Since(begun))
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if st := c.Handler.Stats(); st.Abandoned != 1 {
			t.Errorf("%+v", st)
		}
		wantBlob(t, "who comes back", c.get(blob("slow", d)), content)
		if n := c.fetches.Load(); n != 2 {
			t.Errorf("%d fetches", n)
		}
	})
}

// TestAbandonedRepositoryEnds checks that a fill without clients ends when another repository's fill has received
// bytes.
func TestAbandonedRepositoryEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, func(o *Options) { o.Share = true })
		content := testutil.RandomBytes(mib)
		d := c.add(content)
		c.script = func(ctx context.Context, q route.Request, s *sink) error {
			if q.Repository == "silent" {
				return pause(ctx, 50*time.Second)
			}
			if err := pause(ctx, 5*time.Second); err != nil {
				return err
			}
			_, err := s.Write(s.content)
			return err
		}
		ctx, leave := context.WithTimeout(t.Context(), 2*time.Second)
		defer leave()
		go c.ask(ctx, http.MethodGet, blob("silent", d))
		synctest.Wait()
		c.ask(ctx, http.MethodGet, blob("slow", d))
		synctest.Wait()
		if st := c.Handler.Stats(); st.Abandoned != 2 {
			t.Errorf("%+v", st)
		}
		time.Sleep(6 * time.Second)
		if st := c.Handler.Stats(); st.Running != 0 || st.Abandoned != 0 || c.fetches.Load() != 2 {
			t.Errorf("%d fetches, %+v", c.fetches.Load(), st)
		}
		wantBlob(t, "the store", c.get(blob("silent", d)), content)
	})
}
