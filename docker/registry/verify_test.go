// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

const ample = 1 << 30

// corrupt sends one wrong byte in the middle.
func corrupt(w http.ResponseWriter, body []byte) {
	wrong := bytes.Clone(body)
	wrong[len(wrong)/2] ^= 1
	_, _ = w.Write(wrong)
}

// cut sends all but so many bytes and closes the connection.
func cut(missing int) func(http.ResponseWriter, []byte) {
	return func(w http.ResponseWriter, body []byte) {
		_, _ = w.Write(body[:len(body)-missing])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

func TestWrongBlob(t *testing.T) {
	for _, size := range []int{1, 400, 512, 513, 5000, 1 << 20} {
		for name, fault := range map[string]func(http.ResponseWriter, []byte){
			"corrupt": corrupt, "last byte missing": cut(1), "nothing": cut(size), "half": cut((size + 1) / 2),
		} {
			t.Run(fmt.Sprint(name, " of ", size), func(t *testing.T) {
				t.Parallel()
				up := newUpstream(t)
				c := newCache(t, up, t.TempDir(), ample)
				d := up.blob(size)
				up.misbehave(onBlob(fault))
				a := c.blob(d)
				switch {
				case a.StatusCode == http.StatusBadGateway && a.err == nil:
					if !bytes.Contains(a.body, []byte(`"UPSTREAM_INVALID"`)) || a.Header.Get("ETag") != "" {
						t.Errorf("502 with %q, headers %v", a.body, a.Header)
					}
				case a.StatusCode == http.StatusOK && a.err != nil && size > 512:
					if a.ContentLength != int64(size) {
						t.Errorf("Content-Length %d, the upstream's is %d", a.ContentLength, size)
					}
					if bytes.Contains(a.body, []byte("errors")) {
						t.Error("an error's text is in the body")
					}
				default:
					t.Errorf("a client takes this for whole: %v", a)
				}
				until(t, "nothing stored", func() bool { return len(files(t, c.root)) == 0 })
				clean(t, c.root)
				up.misbehave(nil)
				right(t, c.blob(d), d)
				until(t, "stored", func() bool { return stored(c.root, d) })
			})
		}
	}
}

func TestSizeOfHeadAndGetDiffer(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	for _, more := range []int{-100, 100, -5000} {
		d := up.blob(5000)
		up.misbehave(func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if r.Method == http.MethodHead {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)+more))
			}
			return false
		})
		if a := c.blob(d); a.err == nil && a.StatusCode != http.StatusBadGateway {
			t.Errorf("%+d: %v", more, a)
		}
	}
	if left := files(t, c.root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestEmptyBlob(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	d := up.blob(0)
	right(t, c.blob(d), d)
	right(t, c.blob(d), d)
}

func TestFirstByteDoesNotWait(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	d := up.blob(4000)
	received := make(chan struct{})
	up.misbehave(onBlob(func(w http.ResponseWriter, body []byte) {
		_, _ = w.Write(body[:600])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-received:
		case <-time.After(5 * time.Second):
			t.Error("88 bytes that need not be withheld did not come")
		}
		_, _ = w.Write(body[600:])
	}))
	resp, err := client.Get(c.URL + "/v2/some/image/blobs/" + d.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 88)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	close(received)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || digest.FromBytes(append(first, rest...)) != d {
		t.Fatal("not right", err)
	}
}

func TestUpstreamStatus(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	d := up.blob(5000)
	for _, test := range []struct {
		method string
		status int
		want   int
	}{
		{http.MethodHead, 401, 503}, {http.MethodHead, 403, 403}, {http.MethodHead, 404, 404},
		{http.MethodHead, 429, 429}, {http.MethodHead, 500, 502}, {http.MethodHead, 503, 503},
		{http.MethodGet, 401, 503}, {http.MethodGet, 403, 403}, {http.MethodGet, 404, 404},
		{http.MethodGet, 429, 429}, {http.MethodGet, 500, 502}, {http.MethodGet, 503, 503},
	} {
		up.misbehave(func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if r.Method != test.method {
				return false
			}
			w.Header().Del("Content-Length")
			http.Error(w, "fault", test.status)
			return true
		})
		before := up.asked(d.String())
		a := c.blob(d)
		if n := up.asked(d.String()) - before; n > 1 {
			t.Errorf("%s %d: asked %d times", test.method, test.status, n)
		}
		if a.StatusCode != test.want || a.err != nil || !bytes.Contains(a.body, []byte(`"errors"`)) {
			t.Errorf("%s %d: %v, want %d: %s", test.method, test.status, a, test.want, a.body)
		}
	}
	up.misbehave(nil)
	right(t, c.blob(d), d)
}

func TestHeadDoesNotFetch(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	d := up.blob(5000)
	url := c.URL + "/v2/some/image/blobs/" + d.String()
	head := func() http.Header {
		t.Helper()
		a := ask(t, http.MethodHead, url)
		if a.StatusCode != 200 || a.ContentLength != 5000 {
			t.Fatal(a)
		}
		a.Header.Del("Date")
		return a.Header
	}
	cold := head()
	if n := up.asked(d.String()); n != 0 {
		t.Errorf("%d GETs for a HEAD", n)
	}
	get := c.blob(d)
	right(t, get, d)
	warm := head()
	if fmt.Sprint(cold) != fmt.Sprint(warm) {
		t.Errorf("cold %v\nwarm %v", cold, warm)
	}
	for _, name := range []string{"Etag", "Cache-Control", "Docker-Content-Digest", "Content-Length", "Content-Type"} {
		if get.Header.Get(name) != warm.Get(name) || warm.Get(name) == "" {
			t.Errorf("%s: cold %q, warm %q", name, get.Header.Get(name), warm.Get(name))
		}
	}
}

func TestRangeAndConditions(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	d := up.blob(5000)
	right(t, c.blob(d, "Range", "bytes=4000-"), d) // not yet there: whole
	until(t, "stored", func() bool { return stored(c.root, d) })
	a := c.blob(d, "Range", "bytes=4000-")
	if a.StatusCode != http.StatusPartialContent || !bytes.Equal(a.body, up.bytes(d)[4000:]) {
		t.Errorf("range: %v", a)
	}
	if a := c.blob(d, "Range", "bytes=9000-"); a.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("range beyond the end: %v", a)
	}
	if a := c.blob(d, "If-None-Match", `"`+d.String()+`"`); a.StatusCode != http.StatusNotModified {
		t.Errorf("condition: %v", a)
	}
	if n := up.asked(d.String()); n != 1 {
		t.Errorf("%d GETs upstream", n)
	}
}

func TestCorruptOnDisk(t *testing.T) {
	flip := func(t *testing.T, file string) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	truncate := func(size int64) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			if err := os.Truncate(file, size); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name   string
		size   int
		damage func(*testing.T, string)
		atOnce bool // nothing was sent, so the same request is still answered right
	}{
		{"large", 1 << 20, flip, false}, {"small", 300, flip, true}, {"empty", 1 << 20, truncate(0), true},
		{"short", 1 << 20, truncate(1 << 19), false}, {"cut to what is withheld", 1 << 20, truncate(100), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			up := newUpstream(t)
			c := newCache(t, up, t.TempDir(), ample)
			d := up.blob(test.size)
			right(t, c.blob(d), d)
			until(t, "stored", func() bool { return stored(c.root, d) })
			test.damage(t, data(c.root, d))
			if test.atOnce {
				right(t, c.blob(d), d)
			} else if a := c.blob(d); a.err == nil {
				t.Errorf("a client takes this for whole: %v", a)
			}
			right(t, c.blob(d), d)
			until(t, "stored again", func() bool {
				b, err := os.ReadFile(data(c.root, d))
				return err == nil && digest.FromBytes(b) == d
			})
		})
	}
}

func TestManifestCorruptOnDisk(t *testing.T) {
	for name, edit := range map[string][2]string{"still JSON": {`"size":64`, `"size":65`}, "no JSON": {"{", "#"}} {
		t.Run(name, func(t *testing.T) {
			up := newUpstream(t)
			c := newCache(t, up, t.TempDir(), ample)
			d, _ := up.image("v1", 10)
			right(t, c.manifest(d.String()), d)
			wrong := strings.Replace(string(up.bytes(d)), edit[0], edit[1], 1)
			if err := os.WriteFile(data(c.root, d), []byte(wrong), 0o600); err != nil {
				t.Fatal(err)
			}
			right(t, c.manifest(d.String()), d)
			if b, err := os.ReadFile(data(c.root, d)); err != nil || digest.FromBytes(b) != d {
				t.Error("not mended on disk", err)
			}
		})
	}
}

func TestWrongManifest(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	d, _ := up.image("v1", 10)
	other, _ := up.image("v2", 10)
	up.misbehave(func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if r.Method != http.MethodGet {
			return false
		}
		wrong := up.bytes(other)
		w.Header().Set("Content-Length", fmt.Sprint(len(wrong)))
		_, _ = w.Write(wrong)
		return true
	})
	for _, ref := range []string{d.String(), "v1"} {
		if a := c.manifest(ref); a.StatusCode < 500 {
			t.Errorf("%s: %v", ref, a)
		}
	}
	if stored(c.root, d) {
		t.Error("stored under the digest that was asked for")
	}
	up.misbehave(nil)
	right(t, c.manifest(d.String()), d)
}

func TestTagMovesMeanwhile(t *testing.T) {
	up := newUpstream(t)
	c := newCache(t, up, t.TempDir(), ample)
	old, _ := up.image("latest", 10)
	var moved atomic.Bool
	up.misbehave(func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if r.Method == http.MethodHead && moved.CompareAndSwap(false, true) {
			up.image("latest", 20)
		}
		return false
	})
	a := c.manifest("latest")
	right(t, a, old)
	if a.Header.Get("Docker-Content-Digest") != old.String() {
		t.Error("digest header", a.Header)
	}
}
