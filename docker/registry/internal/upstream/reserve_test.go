// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestReserve checks that room is reserved before a large response is read: for its size, or the maximum if the size is
// unknown.
func TestReserve(t *testing.T) {
	s := start(t, patient, nil)
	var mu sync.Mutex
	var asked []int64
	full := false
	s.room = func(_ context.Context, bytes int64) error {
		mu.Lock()
		defer mu.Unlock()
		if bytes > unreserved {
			asked = append(asked, bytes)
			if full {
				return errors.New("no room")
			}
		}
		return nil
	}
	first := func() int64 {
		mu.Lock()
		defer mu.Unlock()
		if len(asked) == 0 {
			return 0
		}
		n := asked[0]
		asked = nil
		return n
	}
	large := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[],"annotations":{"a":%q}}`,
		v1.MediaTypeImageManifest, v1.MediaTypeImageConfig, nowhere, strings.Repeat("a", 1<<20))
	d := s.g.manifest("large", v1.MediaTypeImageManifest, large)
	s.g.image("small")
	s.right(t, tag("small"))
	if n := first(); n != 0 {
		t.Errorf("%d bytes for a small one", n)
	}
	s.right(t, tag("large"))
	if n := first(); n != int64(len(large)) {
		t.Errorf("%d bytes of %d", n, len(large))
	}
	s.right(t, tag("large")) // distribution has stored it
	if n := first(); n != int64(len(large)) {
		t.Errorf("%d bytes of %d that distribution has", n, len(large))
	}
	s.g.misbehave(on("", "/tags/list", func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write(make([]byte, 1<<20))
	}))
	if a, err := s.Get(ctx, tags(""), ""); err != nil || len(a.Body) != 1<<20 || first() != listLimit {
		t.Errorf("a list of unknown size: %v", err)
	}
	full = true
	isError(t, "a list", s.ask(t, tags("")), 503, "UNAVAILABLE")
	s.g.misbehave(nil)
	isError(t, "a tag", s.ask(t, tag("large")), 503, "UNAVAILABLE") // the last known manifest is not served, either
	isError(t, "a manifest", s.ask(t, byDigest(d)), 503, "UNAVAILABLE")
	if n := s.value(t, "registry_cache_refused_total"); n != 0 {
		t.Errorf("%v bodies are called wrong", n)
	}
}
