// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// storedAt returns the file with the data of a blob or manifest in the store at root.
func storedAt(root string, d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(root, "upstreams/up-0.example/docker/registry/v2/blobs/sha256", hex[:2], hex, "data")
}

// TestDamagedStore changes files of a stopped replica. Responses are right, or cut if the damage was found after a part
// was sent. Then the next response is right. Damage on disk is repaired if possible.
func TestDamagedStore(t *testing.T) {
	flip := func(of func(size int) int) func(string) error {
		return func(file string) error {
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			content[of(len(content))] ^= 1
			return os.WriteFile(file, content, 0o600)
		}
	}
	truncate := func(of func(size int64) int64) func(string) error {
		return func(file string) error {
			info, err := os.Stat(file)
			if err != nil {
				return err
			}
			return os.Truncate(file, of(info.Size()))
		}
	}
	for _, test := range []struct {
		name       string
		damage     func(file string) error
		cut        bool // a client may receive a part of a large blob before the damage is found
		repairable bool
	}{
		{"first byte", flip(func(int) int { return 0 }), true, true}, // makes a manifest invalid JSON
		{"a byte in the middle", flip(func(size int) int { return size / 2 }), true, true},
		{"empty", truncate(func(int64) int64 { return 0 }), false, true},
		{"half", truncate(func(size int64) int64 { return size / 2 }), true, true},
		{"what is withheld", truncate(func(int64) int64 { return 100 }), true, true},
		{"a folder in its place", func(file string) error {
			return errors.Join(os.Remove(file), os.MkdirAll(filepath.Join(file, "not empty"), 0o700))
		}, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := newRegistry(t)
			c := configuration(t, t.TempDir(), "tags: {ttl: 0s}", u)
			r := start(t, c)
			manifest, large := u.image("v1", testutil.RandomBytes(mib))
			small := u.put(nil, testutil.RandomBytes(300))
			of := digest.FromBytes(manifest)
			paths := map[digest.Digest]string{
				of: "/v2/a/b/manifests/" + string(of), large: "/v2/a/b/blobs/" + string(large), small: "/v2/a/b/blobs/" + string(small),
			}
			stored := func(d digest.Digest) bool {
				content, err := os.ReadFile(storedAt(r.root, d))
				return err == nil && digest.FromBytes(content) == d
			}
			for d, path := range paths {
				if a := r.get(path); digest.FromBytes(a.body) != d {
					t.Fatalf("%s: %d, %v", path, a.status, a.err)
				}
				testutil.Eventually(t, "stored", func() bool { return stored(d) })
			}
			r.end()
			for d := range paths {
				if err := test.damage(storedAt(r.root, d)); err != nil {
					t.Fatal(err)
				}
			}
			r = start(t, c)
			for d, path := range paths {
				a := r.get(path)
				right := a.status == 200 && a.err == nil && digest.FromBytes(a.body) == d
				if !right && (d != large || !test.cut || a.err == nil) {
					t.Errorf("%s: %d with %d bytes, %v", path, a.status, len(a.body), a.err)
				}
				if a := r.get(path); a.status != 200 || a.err != nil || digest.FromBytes(a.body) != d {
					t.Errorf("%s again: %d with %d bytes, %v", path, a.status, len(a.body), a.err)
				}
				if test.repairable {
					testutil.Eventually(t, path+" is right on the disk", func() bool { return stored(d) })
				}
			}
			if a := r.get("/v2/a/b/manifests/v1"); a.status != 200 || digest.FromBytes(a.body) != of {
				t.Errorf("the tag: %d, %s", a.status, a.body)
			}
			if n := r.value("registry_cache_corrupt_total"); test.cut && n == 0 { // empty files are removed at the start, as unfinished
				t.Error("not counted")
			}
		})
	}
}

// TestPipeInTheStore replaces a stored blob with a pipe while the replica runs. Clients get the blob from the upstream.
func TestPipeInTheStore(t *testing.T) {
	u := newRegistry(t)
	r := start(t, configuration(t, t.TempDir(), "", u))
	d := u.put(nil, testutil.RandomBytes(mib))
	path, file := "/v2/a/b/blobs/"+string(d), storedAt(r.root, d)
	if a := r.get(path); digest.FromBytes(a.body) != d {
		t.Fatalf("%d, %v", a.status, a.err)
	}
	testutil.Eventually(t, "stored", func() bool { _, err := os.Stat(file); return err == nil })
	if err := errors.Join(os.Remove(file), syscall.Mkfifo(file, 0o600)); err != nil {
		t.Fatal(err)
	}
	got := make(chan answer, 1)
	go func() { got <- r.get(path) }()
	select {
	case a := <-got:
		if a.status != 200 || digest.FromBytes(a.body) != d {
			t.Errorf("%d with %d bytes, %v", a.status, len(a.body), a.err)
		}
	case <-time.After(patience):
		if f, err := os.OpenFile(file, os.O_RDWR|syscall.O_NONBLOCK, 0); err == nil { // unblocks the reader
			defer f.Close()
		}
		t.Fatal("no answer")
	}
	if n := r.value("registry_cache_corrupt_total"); n != 1 {
		t.Errorf("%v are counted", n)
	}
}

// TestBrokenStore checks that content is served from the upstream if the links of a manifest and its tag can be
// neither read nor overwritten.
func TestBrokenStore(t *testing.T) {
	u := newRegistry(t)
	c := configuration(t, t.TempDir(), "tags: {ttl: 0s}", u)
	r := start(t, c)
	manifest, _ := u.image("v1", testutil.RandomBytes(10))
	d := digest.FromBytes(manifest)
	paths := []string{"/v2/a/b/manifests/v1", "/v2/a/b/manifests/" + string(d)}
	of := filepath.Join(r.root, "upstreams/up-0.example/docker/registry/v2/repositories/a/b/_manifests")
	links := []string{filepath.Join(of, "tags/v1/current/link"), filepath.Join(of, "revisions/sha256", d.Encoded(), "link")}
	for _, path := range paths {
		if a := r.get(path); a.status != 200 {
			t.Fatal(path, a.status)
		}
	}
	testutil.Eventually(t, "the links are stored", func() bool {
		_, one := os.Stat(links[0])
		_, two := os.Stat(links[1])
		return one == nil && two == nil
	})
	r.end()
	for _, link := range links {
		if err := errors.Join(os.Remove(link), os.MkdirAll(filepath.Join(link, "not empty"), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	r = start(t, c)
	for _, path := range append(paths, paths...) {
		if a := r.get(path); a.status != 200 || digest.FromBytes(a.body) != d {
			t.Errorf("%s: %d, %s", path, a.status, a.body)
		}
	}
}

// TestMetricsOfTheStore checks the metrics for evictions and for content without room, and that the limit holds.
func TestMetricsOfTheStore(t *testing.T) {
	u := newRegistry(t)
	r := start(t, configuration(t, t.TempDir(), "", u))
	pull := func(size int) digest.Digest {
		d := u.put(nil, testutil.RandomBytes(size))
		if a := r.get("/v2/a/b/blobs/" + string(d)); a.status != 200 || digest.FromBytes(a.body) != d {
			t.Fatalf("%d with %d of %d bytes, %v", a.status, len(a.body), size, a.err)
		}
		testutil.Eventually(t, "the fill's end", func() bool { return r.value(`registry_cache_fills{upstream="up-0.example"}`) == 0 })
		return d
	}
	first := pull(40 * mib)
	pull(41 * mib) // the first one goes
	pull(65 * mib) // more than the limit
	for series, want := range map[string]float64{
		"registry_cache_evictions_total": 1, "registry_cache_unkept_total": 1, "registry_cache_corrupt_total": 0,
		"registry_cache_disk_limit_bytes": 64 * mib,
	} {
		if n := r.value(series); n != want {
			t.Errorf("%s: %v, want %v", series, n, want)
		}
	}
	if n := r.value("registry_cache_evicted_bytes_total"); n < 40*mib || n > 41*mib {
		t.Errorf("%v bytes evicted", n)
	}
	testutil.Eventually(t, "the second one is all that is stored", func() bool {
		n := r.value("registry_cache_disk_used_bytes")
		return 41*mib <= n && n <= 42*mib
	})
	// Evicted content is fetched again, and nothing is left of it before that.
	err := filepath.WalkDir(r.root, func(path string, _ os.DirEntry, err error) error {
		if strings.Contains(path, first.Encoded()) {
			t.Errorf("left of what was dropped: %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if a := r.get("/v2/a/b/blobs/" + string(first)); digest.FromBytes(a.body) != first || u.count("GET "+string(first)) != 2 {
		t.Errorf("%d with %d bytes, %d GETs", a.status, len(a.body), u.count("GET "+string(first)))
	}
}

// TestUpstreamMessagesAreOnlyLogged checks that the upstream's error messages are logged, and not sent to clients.
func TestUpstreamMessagesAreOnlyLogged(t *testing.T) {
	u := newRegistry(t)
	u.misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprint(w, `{"errors":[{"code":"WHATEVER","message":"of the upstream"}]}`)
		return true
	})
	r := start(t, configuration(t, t.TempDir(), "", u))
	d := string(digest.FromString("none"))
	for path, words := range map[string]string{
		"/v2/a/b/manifests/" + d: "WHATEVER: of the upstream", "/v2/a/b/tags/list": "WHATEVER: of the upstream",
		"/v2/a/b/manifests/v1": "status 403", // requested with HEAD, whose response has no message
	} {
		if a := r.get(path); a.status != 403 || strings.Contains(string(a.body), "of the upstream") {
			t.Errorf("%s: %d, %s", path, a.status, a.body)
		}
		if !logged(r, path, words) {
			t.Errorf("the log does not say why %s failed: %s", path, r.log)
		}
	}
}

// logged reports whether one line of a replica's log has all words.
func logged(r *running, words ...string) bool {
lines:
	for line := range strings.Lines(r.log.String()) {
		for _, word := range words {
			if !strings.Contains(line, word) {
				continue lines
			}
		}
		return true
	}
	return false
}

// TestSignatureTag pulls a signature by the tag that cosign derives from the image's digest.
func TestSignatureTag(t *testing.T) {
	u := newRegistry(t)
	r := start(t, configuration(t, t.TempDir(), "tags: {ttl: 0s}", u))
	subject, _ := u.image("v1", testutil.RandomBytes(10))
	d := digest.FromBytes(subject)
	path := "/v2/a/b/manifests/sha256-" + d.Encoded() + ".sig"
	if a := r.get(path); a.status != 404 || !strings.Contains(string(a.body), "MANIFEST_UNKNOWN") {
		t.Errorf("before: %d, %s", a.status, a.body)
	}
	signature := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"application/vnd.example.signature",`+
		`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":%d}}`,
		manifestType, digest.FromString("{}"), manifestType, d, len(subject))
	u.put([]string{filepath.Base(path)}, signature)
	testutil.Eventually(t, "the error is forgotten", func() bool { return r.get(path).status == 200 })
	if a := r.get(path); string(a.body) != string(signature) {
		t.Errorf("%d, %s", a.status, a.body)
	}
}
