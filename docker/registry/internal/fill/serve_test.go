// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestBlob checks that a blob is fetched once and has the same header from a fill, from the store and after a restart.
func TestBlob(t *testing.T) {
	for _, size := range []int{0, 1, 512, 513, 2 * kib, 64 * kib, 64*kib + 1, 3 * mib} {
		for _, sized := range []bool{true, false} {
			t.Run(fmt.Sprint(size, sized), func(t *testing.T) {
				c := newCache(t, nil)
				c.unsized = !sized
				content := testutil.RandomBytes(size)
				q := blob("a/b", c.add(content))
				want := func(what string, a answer, knownSize bool) {
					t.Helper()
					wantBlob(t, what, a, content)
					length := ""
					if knownSize {
						length = strconv.Itoa(size)
					}
					for name, value := range map[string]string{
						"Content-Type": "application/octet-stream", "Docker-Content-Digest": string(q.Digest), "Etag": `"` + string(q.Digest) + `"`,
						"Accept-Ranges": "bytes", "Content-Length": length, "Content-Range": "", "Docker-Distribution-Api-Version": "registry/2.0",
					} {
						if got := a.header.Get(name); got != value && (name != "Content-Length" || knownSize) {
							t.Errorf("%s: %s: %q, want %q", what, name, got, value)
						}
					}
				}
				want("fill", c.get(q), sized)
				testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
				want("store", c.get(q), true)
				if n := c.fetches.Load(); n != 1 {
					t.Errorf("%d fetches", n)
				}
				c.close()
				c = openCache(t, c.root, nil)
				want("store after a restart", c.get(q), true)
				want("and once more", c.get(q), true)
				if n := c.fetches.Load(); n != 0 {
					t.Errorf("%d fetches after a restart", n)
				}
			})
		}
	}
}

// parts returns the ranges and the body of an answer. It joins the parts of a multipart body.
func parts(t *testing.T, a answer) (ranges string, body []byte) {
	t.Helper()
	kind, parameters, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	if kind != "multipart/byteranges" {
		return a.header.Get("Content-Range"), a.body
	}
	all := []string{}
	for m := multipart.NewReader(bytes.NewReader(a.body), parameters["boundary"]); ; {
		part, err := m.NextPart()
		if err == io.EOF {
			return strings.Join(all, " + "), body
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, part.Header.Get("Content-Range"))
		content, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		body = append(body, content...)
	}
}

// TestRanges requests ranges of a complete blob, of a growing one, of one whose fetch has not started, and of one that
// is verified after a restart. Podman and stargz request several ranges.
func TestRanges(t *testing.T) {
	const size = 200 * kib
	content := testutil.RandomBytes(size)
	d := digest.FromBytes(content)
	q := blob("a/b", d)
	slice := func(pairs ...int) (body []byte) {
		for i := 0; i < len(pairs); i += 2 {
			body = append(body, content[pairs[i]:pairs[i+1]]...)
		}
		return body
	}
	type want struct {
		status int
		ranges string
		body   []byte
	}
	whole := want{200, "", content}
	none := want{416, "bytes */204800", nil}
	tests := map[string]want{
		"bytes=0-9":               {206, "bytes 0-9/204800", slice(0, 10)},
		"bytes=0-9,20-29":         {206, "bytes 0-9/204800 + bytes 20-29/204800", slice(0, 10, 20, 30)},
		"bytes=100000-100009,0-9": {206, "bytes 100000-100009/204800 + bytes 0-9/204800", slice(100000, 100010, 0, 10)},
		"bytes=0-9,900000-":       {206, "bytes 0-9/204800", slice(0, 10)},
		"bytes=150000-":           {206, "bytes 150000-204799/204800", slice(150000, size)},
		"bytes=0-":                {206, "bytes 0-204799/204800", content},
		"bytes=-10":               {206, "bytes 204790-204799/204800", slice(size-10, size)},
		"bytes=204799-300000":     {206, "bytes 204799-204799/204800", slice(size-1, size)},
		"bytes=204800-":           none,
		"bytes=300000-300009":     none,
		"bytes=-0":                none,
		"bytes=9-0":               whole,
		"bytes=x":                 whole,
		"bytes=":                  whole,
		"lines=0-9":               whole,
	}
	check := func(t *testing.T, header string, a answer, w want) {
		t.Helper()
		ranges, body := parts(t, a)
		if a.status == 416 {
			if !strings.Contains(string(body), "RANGE_INVALID") {
				t.Errorf("%s: %q", header, body)
			}
			body = nil
		}
		if a.status != w.status || ranges != w.ranges || !bytes.Equal(body, w.body) || a.cut {
			t.Errorf("%s: %d %q with %d bytes, cut %v; want %d %q with %d", header, a.status, ranges, len(body), a.cut, w.status, w.ranges, len(w.body))
		}
	}
	// The buffer may drop bytes after they were read, so a request for ranges out of order gets the whole blob.
	ordered := func(header string) want {
		if header == "bytes=100000-100009,0-9" {
			return whole
		}
		return tests[header]
	}
	// growing sends requests in the middle of a fill, at 64 KiB.
	growing := func(t *testing.T, c *cache) map[string]answer {
		t.Helper()
		type named struct {
			header string
			answer answer
		}
		answers, goOn := make(chan named), make(chan struct{})
		c.script = func(ctx context.Context, _ route.Request, s *sink) error {
			_, _ = s.Write(content[:64*kib])
			<-goOn
			_, err := s.Write(content[64*kib:])
			return err
		}
		c.put(d, content)
		for header := range tests {
			go func() { answers <- named{header, c.get(q, "Range", header)} }()
		}
		testutil.Eventually(t, "all join", func() bool { return c.Handler.Stats().Shared == int64(len(tests)-1) })
		early := map[string]answer{}
		if !c.unsized {
			// Available bytes are sent before the rest has arrived. So are responses without content.
			for range 6 {
				n := <-answers
				early[n.header] = n.answer
			}
		}
		testutil.Eventually(t, "all have a header", func() bool { return c.begun.Load() == int64(len(tests)) })
		close(goOn)
		for len(early) < len(tests) {
			n := <-answers
			early[n.header] = n.answer
		}
		if n := c.fetches.Load(); n != 1 {
			t.Errorf("%d fetches", n)
		}
		return early
	}
	t.Run("growing", func(t *testing.T) {
		for header, a := range growing(t, newCache(t, nil)) {
			check(t, header, a, ordered(header))
		}
	})
	t.Run("growing of unknown size", func(t *testing.T) {
		c := newCache(t, nil)
		c.unsized = true
		for header, a := range growing(t, c) {
			check(t, header, a, whole)
		}
	})
	t.Run("not started", func(t *testing.T) {
		for header := range tests {
			c := newCache(t, nil)
			c.put(d, content)
			check(t, header, c.get(q, "Range", header), ordered(header))
		}
	})
	t.Run("stored", func(t *testing.T) {
		c := newCache(t, nil)
		c.put(d, content)
		c.get(q)
		testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
		for header, w := range tests {
			check(t, header, c.get(q, "Range", header), w)
		}
		if n := c.fetches.Load(); n != 1 {
			t.Errorf("%d fetches", n)
		}
		for header, w := range tests {
			c.close()
			c = openCache(t, c.root, nil)
			check(t, header+" after a restart", c.get(q, "Range", header), w)
		}
		if n := c.fetches.Load(); n != 0 {
			t.Errorf("%d fetches after a restart", n)
		}
	})
}

// TestConditions checks conditional requests (RFC 9110) with the digest as ETag.
func TestConditions(t *testing.T) {
	for _, size := range []int{2 * kib, 100 * kib} { // from memory, from a file
		content := testutil.RandomBytes(size)
		c := newCache(t, nil)
		q := blob("a/b", c.add(content))
		tag, other := `"`+string(q.Digest)+`"`, `"other"`
		for _, from := range []string{"fill", "store"} {
			for _, test := range []struct {
				head   []string
				status int
				length int
			}{
				{[]string{"Range", "bytes=0-9"}, 206, 10},
				{[]string{"Range", "bytes=0-9", "If-Range", tag}, 206, 10},
				{[]string{"Range", "bytes=0-9", "If-Range", other}, 200, size},
				{[]string{"Range", "bytes=900000-", "If-Range", other}, 200, size},
				{[]string{"If-None-Match", tag}, 304, 0},
				{[]string{"If-None-Match", tag, "Range", "bytes=900000-"}, 304, 0},
				{[]string{"If-None-Match", other}, 200, size},
				{[]string{"If-Match", other}, 412, 0},
			} {
				a := c.get(q, test.head...)
				if a.status != test.status || len(a.body) != test.length || a.cut {
					t.Errorf("%s, %v: %d with %d bytes, want %d with %d", from, test.head, a.status, len(a.body), test.status, test.length)
				}
			}
			testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
		}
	}
}

// TestHead sends HEAD requests for a new, a growing and a stored blob.
func TestHead(t *testing.T) {
	for _, sized := range []bool{true, false} {
		c := newCache(t, nil)
		c.unsized = !sized
		content := testutil.RandomBytes(mib)
		q := blob("a/b", c.add(content))
		begin, goOn := make(chan struct{}), make(chan struct{})
		c.script = func(ctx context.Context, _ route.Request, s *sink) error {
			<-begin
			_, _ = s.Write(content[:mib/2])
			<-goOn
			_, err := s.Write(content[mib/2:])
			return err
		}
		head := func(what string, known bool) {
			t.Helper()
			a := c.ask(t.Context(), http.MethodHead, q)
			length := ""
			if known {
				length = "1048576"
			}
			if a.status != 200 || len(a.body) > 0 || a.header.Get("Content-Length") != length || a.header.Get("Docker-Content-Digest") != string(q.Digest) {
				t.Errorf("%s: %d with %d bytes, %v", what, a.status, len(a.body), a.header)
			}
		}
		close(begin)
		head("first", sized)
		head("growing", sized)
		close(goOn)
		testutil.Eventually(t, "the fill's end", func() bool { return c.Handler.Stats().Running == 0 })
		head("stored", true)
		wantBlob(t, "GET", c.get(q), content)
		if n := c.fetches.Load(); n != 1 {
			t.Errorf("%d fetches", n)
		}
		c.script = nil
		if a := c.ask(t.Context(), http.MethodHead, blob("a/b", digest.FromString("none"))); a.status != 404 || len(a.body) > 0 {
			t.Errorf("unknown: %d with %d bytes", a.status, len(a.body))
		}
	}
}

// TestWrongBytesOnDisk checks that a corrupt blob is dropped by the first read after a restart, which is cut, and
// fetched again.
func TestWrongBytesOnDisk(t *testing.T) {
	c := newCache(t, nil)
	content := testutil.RandomBytes(mib)
	q := blob("a/b", c.add(content))
	c.get(q)
	c.close()
	hex := q.Digest.Encoded()
	path := filepath.Join(c.root, "upstreams/one/docker/registry/v2/blobs/sha256", hex[:2], hex, "data")
	wrong := bytes.Clone(content)
	wrong[100]++
	if err := os.WriteFile(path, wrong, 0o600); err != nil {
		t.Fatal(err)
	}
	c = openCache(t, c.root, nil)
	c.put(q.Digest, content)
	if a := c.get(q); !a.cut || len(a.body) >= len(content) {
		t.Errorf("%d with %d bytes, cut: %v", a.status, len(a.body), a.cut)
	}
	wantBlob(t, "again", c.get(q), content)
}

// FuzzRange requests the same range of a fill and of a stored blob. The responses must be the same, and agree with
// package route.
func FuzzRange(f *testing.F) {
	for _, header := range []string{"bytes=0-9,20-29", "bytes=-5", "bytes=5-", "bytes=900-999,0-9", "bytes=9-1", "bytes=,", "x=1-2", "bytes=18446744073709551616-"} {
		f.Add(header)
	}
	stored, grown := newCache(f, nil), newCache(f, nil)
	content := testutil.RandomBytes(100 * kib)
	q := blob("a/b", stored.add(content))
	stored.get(q)
	testutil.Eventually(f, "the fill's end", func() bool { return stored.Handler.Stats().Running == 0 })
	grown.add(content)
	grown.opts.Fetcher = fetcher(func(_ context.Context, _ route.Request, g *store.Growing) error {
		g.SetSize(int64(len(content)))
		_, _ = g.Write(content)
		return store.ErrNotKept
	})
	f.Fuzz(func(t *testing.T, header string) {
		ranges, satisfiable := route.Ranges(header, int64(len(content)))
		status, want := http.StatusOK, content
		switch {
		case !satisfiable:
			status, want = http.StatusRequestedRangeNotSatisfiable, nil
		case len(ranges) > 0:
			status, want = http.StatusPartialContent, nil
			for _, part := range ranges {
				want = append(want, content[part.Start:part.Start+part.Length]...)
			}
		}
		for what, c := range map[string]*cache{"stored": stored, "grown": grown} {
			status, want := status, want
			if what == "grown" && status == http.StatusPartialContent && !isAscending(ranges) {
				status, want = http.StatusOK, content
			}
			a := c.get(q, "Range", header)
			_, body := parts(t, a)
			if a.status == http.StatusRequestedRangeNotSatisfiable {
				body = nil
			}
			if a.status != status || !bytes.Equal(body, want) || a.cut {
				t.Errorf("%s: %d with %d bytes, cut: %v; want %d with %d", what, a.status, len(body), a.cut, status, len(want))
			}
		}
	})
}
