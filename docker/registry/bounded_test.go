// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/opencontainers/go-digest"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

func TestBoundedRefuses(t *testing.T) {
	for name, test := range map[string]struct{ from, to, want string }{
		"no limit":       {"limit: 1000", "", "limit"},
		"zero":           {"limit: 1000", "limit: 0", "limit"},
		"negative":       {"limit: 1000", "limit: -1", "limit"},
		"a unit":         {"limit: 1000", "limit: 10G", "limit"},
		"unknown option": {"limit: 1000", "limit: 1000, size: 1", `"size"`},
		"a cache":        {"  maintenance:", "  cache: {blobdescriptor: inmemory}\n  maintenance:", "storage.cache"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(yaml("http://127.0.0.1:1", t.TempDir(), "", 1000), test.from, test.to, 1)
			config, err := configuration.Parse(strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), test.want) {
					t.Errorf("%v does not name %s", p, test.want)
				}
			}()
			handlers.NewApp(context.Background(), config)
		})
	}
}

// TestPullManyTimesTheLimit pulls five times the limit through from several clients, and looks at the disk all the time.
func TestPullManyTimesTheLimit(t *testing.T) {
	const limit = 4 * mib
	up := newUpstream(t)
	root := t.TempDir()
	c := newCache(t, up, root, limit)
	var blobs []digest.Digest
	for total := 0; total < 5*limit; {
		size := []int{100, 3 * kib, 50 * kib, 300 * kib, 700 * kib}[rand.IntN(5)]
		blobs = append(blobs, up.blob(size))
		total += size
	}
	done := make(chan struct{})
	var most int64
	var watch, clients sync.WaitGroup
	watch.Go(func() {
		for {
			most = max(most, du(root))
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	for client := range 4 {
		clients.Go(func() {
			for i, d := range blobs {
				if i%4 == client || i%7 == 0 { // some of them wanted by all at once
					a := c.blob(d)
					if a.err != nil || digest.FromBytes(a.body) != d {
						t.Errorf("not right: %v", a)
					}
				}
				if i%25 == client {
					tag := fmt.Sprint("v", i)
					m, _ := up.image(tag, 10)
					if a := c.manifest(tag); digest.FromBytes(a.body) != m {
						t.Errorf("not right: %v", a)
					}
				}
			}
		})
	}
	clients.Wait()
	close(done)
	watch.Wait()
	if most > limit {
		t.Errorf("used %d of %d", most, limit)
	}
	if most < limit*8/10 {
		t.Errorf("used only %d of %d: the limit was not reached", most, limit)
	}
	clean(t, root)
	for _, d := range blobs { // what was dropped comes again
		right(t, c.blob(d), d)
	}
}

func TestEvictedImageComesAgain(t *testing.T) {
	up := newUpstream(t)
	root := t.TempDir()
	c := newCache(t, up, root, mib)
	m, layer := up.image("v1", 100*kib)
	pull := func() {
		t.Helper()
		right(t, c.manifest("v1"), m)
		right(t, c.manifest(m.String()), m)
		right(t, c.blob(layer), layer)
	}
	pull()
	until(t, "kept", func() bool { return stored(root, m) && stored(root, layer) })
	for stored(root, m) || stored(root, layer) {
		d := up.blob(200 * kib)
		right(t, c.blob(d), d)
	}
	for _, f := range files(t, root) {
		if strings.Contains(f, m.Encoded()) || strings.Contains(f, layer.Encoded()) || strings.Contains(f, "/tags/") {
			t.Errorf("left of what was dropped: %s", f)
		}
	}
	pull()
	if n := up.asked(layer.String()); n != 2 {
		t.Errorf("the layer was fetched %d times", n)
	}
	up.misbehave(func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	until(t, "kept", func() bool { return stored(root, layer) })
	pull() // the upstream is out
}

func TestLargerThanTheLimit(t *testing.T) {
	up := newUpstream(t)
	root := t.TempDir()
	c := newCache(t, up, root, mib)
	small := up.blob(100 * kib)
	right(t, c.blob(small), small)
	large := up.blob(3 * mib)
	right(t, c.blob(large), large)
	until(t, "upload gone", func() bool { return len(files(t, root)) == 2 })
	clean(t, root)
	if stored(root, large) || !stored(root, small) {
		t.Error("what does not fit must not drop what does")
	}
}

// TestNoRoomBesideUploads fills the store with an upload in flight.
func TestNoRoomBesideUploads(t *testing.T) {
	up := newUpstream(t)
	root := t.TempDir()
	c := newCache(t, up, root, mib)
	first, second := up.blob(700*kib), up.blob(700*kib)
	begun, goOn := make(chan struct{}), make(chan struct{})
	up.misbehave(onBlob(func(w http.ResponseWriter, body []byte) {
		if digest.FromBytes(body) == first {
			_, _ = w.Write(body[:600*kib])
			_ = http.NewResponseController(w).Flush()
			close(begun)
			<-goOn
			body = body[600*kib:]
		}
		_, _ = w.Write(body)
	}))
	answered := make(chan answer)
	go func() { answered <- c.blob(first) }()
	<-begun
	right(t, c.blob(second), second)
	m, _ := up.image("v1", 10)
	right(t, c.manifest("v1"), m)
	if stored(root, second) {
		t.Error("kept beside an upload that takes the room")
	}
	close(goOn)
	right(t, <-answered, first)
	until(t, "the first is kept", func() bool { return stored(root, first) })
	clean(t, root)
}

// TestOrderOfUse drops what was not used for the longest time, also after a restart.
func TestOrderOfUse(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			up := newUpstream(t)
			root := t.TempDir()
			c := newCache(t, up, root, mib)
			var blobs []digest.Digest
			for range 4 {
				d := up.blob(200 * kib)
				blobs = append(blobs, d)
				right(t, c.blob(d), d)
				until(t, "kept", func() bool { return stored(root, d) })
			}
			if restart { // as if they were filled an hour ago, one after the other
				c.Close()
				for i, d := range blobs {
					at := time.Now().Add(-time.Hour + time.Duration(i)*time.Second)
					if err := os.Chtimes(data(root, d), at, at); err != nil {
						t.Fatal(err)
					}
				}
				c = newCache(t, up, root, mib)
			}
			right(t, c.blob(blobs[0]), blobs[0])
			if n := up.asked(blobs[0].String()); n != 1 {
				t.Fatalf("fetched %d times", n)
			}
			if restart { // and the use of the first is known to the next run
				c.Close()
				c = newCache(t, up, root, mib)
			}
			d := up.blob(300 * kib)
			right(t, c.blob(d), d)
			until(t, "kept", func() bool { return stored(root, d) })
			for i, want := range []bool{true, false, false, true} {
				if stored(root, blobs[i]) != want {
					t.Errorf("blob %d: stored %v, want %v", i, !want, want)
				}
			}
		})
	}
}

func TestLowerLimitAtStart(t *testing.T) {
	up := newUpstream(t)
	root := t.TempDir()
	c := newCache(t, up, root, 4*mib)
	for range 10 {
		d := up.blob(200 * kib)
		right(t, c.blob(d), d)
	}
	until(t, "filled", func() bool { return du(root) > 2*mib })
	c.Close()
	newCache(t, up, root, mib)
	if used := du(root); used > mib {
		t.Errorf("used %d", used)
	}
}

func TestStartRemovesWhatIsUnfinished(t *testing.T) {
	up := newUpstream(t)
	root := t.TempDir()
	c := newCache(t, up, root, mib)
	m, layer := up.image("v1", 1000)
	right(t, c.manifest("v1"), m)
	right(t, c.blob(layer), layer)
	until(t, "kept", func() bool { return stored(root, layer) })
	c.Close()
	repo := filepath.Join(root, "docker/registry/v2/repositories/some")
	for _, f := range []string{"image/_uploads/1-2-3/data", "other/_uploads/4/startedat", "image/_manifests/tags/v1/current/link.1.tmp"} {
		name := filepath.Join(repo, f)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, make([]byte, 9000), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(data(root, layer)); err != nil { // its link leads nowhere
		t.Fatal(err)
	}
	newCache(t, up, root, mib)
	clean(t, root)
	for _, f := range files(t, root) {
		if strings.Contains(f, layer.Encoded()) {
			t.Errorf("left: %s", f)
		}
	}
	if _, err := os.Stat(filepath.Join(repo, "other")); err == nil {
		t.Error("an empty directory is left")
	}
	if !stored(root, m) {
		t.Error("the manifest went")
	}
}

func TestConcurrentFills(t *testing.T) {
	up := newUpstream(t)
	root := t.TempDir()
	c := newCache(t, up, root, 64*mib)
	blobs := []digest.Digest{up.blob(2 * mib), up.blob(2 * mib), up.blob(100), up.blob(40 * kib)}
	var clients sync.WaitGroup
	for i := range 32 {
		clients.Go(func() {
			d := blobs[i%len(blobs)]
			if a := c.blob(d); a.err != nil || digest.FromBytes(a.body) != d {
				t.Errorf("not right: %v", a)
			}
		})
	}
	clients.Wait()
	for _, d := range blobs {
		until(t, "kept", func() bool { return stored(root, d) })
	}
	until(t, "clean", func() bool { return len(files(t, root)) == 2*len(blobs) })
}

// TestEvictedWhileRead drops a blob while a client reads it.
func TestEvictedWhileRead(t *testing.T) {
	up := newUpstream(t)
	root := t.TempDir()
	c := newCache(t, up, root, 48*mib)
	d := up.blob(32 * mib)
	right(t, c.blob(d), d)
	until(t, "kept", func() bool { return stored(root, d) })
	resp, err := client.Get(c.URL + "/v2/some/image/blobs/" + d.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	other := up.blob(32 * mib)
	right(t, c.blob(other), other)
	if stored(root, d) {
		t.Fatal("not dropped")
	}
	verifier := d.Verifier()
	if _, err := bytes.NewBuffer(nil).ReadFrom(teeReader{resp.Body, verifier}); err != nil || !verifier.Verified() {
		t.Error("the reader did not get all of it", err)
	}
}

type teeReader struct {
	from interface{ Read([]byte) (int, error) }
	to   interface{ Write([]byte) (int, error) }
}

func (r teeReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	_, _ = r.to.Write(p[:n])
	return n, err
}

// smallDisk is a file system of its own.
func smallDisk(t *testing.T, size int) string {
	root := t.TempDir()
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return root
}

// TestFullDisk has a disk smaller than the limit.
func TestFullDisk(t *testing.T) {
	root := smallDisk(t, 4*mib)
	up := newUpstream(t)
	c := newCache(t, up, root, ample)
	var last digest.Digest
	for i := range 20 {
		tag := fmt.Sprint("v", i)
		m, layer := up.image(tag, 700*kib)
		right(t, c.manifest(tag), m)
		right(t, c.manifest(m.String()), m)
		right(t, c.blob(layer), layer)
		last = layer
	}
	right(t, c.blob(last), last)
	until(t, "the cache goes on with what is in use", func() bool { return stored(root, last) })
	clean(t, root)
}

// TestDiskFullOfOthersFiles has nothing to drop.
func TestDiskFullOfOthersFiles(t *testing.T) {
	root := smallDisk(t, 4*mib)
	up := newUpstream(t)
	c := newCache(t, up, root, ample)
	m, layer := up.image("v1", 700*kib)
	for pass := range 2 {
		if pass == 1 {
			ballast := filepath.Join(root, "ballast")
			if err := os.WriteFile(ballast, make([]byte, 8*mib), 0o600); !errors.Is(err, syscall.ENOSPC) {
				t.Fatal("the disk is not full", err)
			}
			m, layer = up.image("v1", 800*kib)
		}
		right(t, c.manifest("v1"), m)
		right(t, c.manifest(m.String()), m)
		right(t, c.blob(layer), layer)
		right(t, c.blob(layer), layer)
	}
	clean(t, root)
}

// process is the registry as a process, to be killed.
func process(t *testing.T, up *upstream, root string, limit int64) (url string, stop func() string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	file := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(file, []byte(yaml(up.URL, root, addr, limit)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"="+file, "OTEL_TRACES_EXPORTER=none")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop = func() string {
		once.Do(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return log.String()
	}
	t.Cleanup(func() { stop() })
	until(t, "listens", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return "http://" + addr + "/v2/some/image/", stop
}

func TestKilledDuringFill(t *testing.T) {
	up := newUpstream(t)
	root := t.TempDir()
	url, stop := process(t, up, root, 4*mib)
	kept, d := up.blob(mib), up.blob(2*mib)
	right(t, ask(t, http.MethodGet, url+"blobs/"+kept.String()), kept)
	goOn := make(chan struct{})
	up.misbehave(onBlob(func(w http.ResponseWriter, body []byte) {
		_, _ = w.Write(body[:mib])
		_ = http.NewResponseController(w).Flush()
		<-goOn
	}))
	answered := make(chan answer)
	go func() { answered <- ask(t, http.MethodGet, url+"blobs/"+d.String()) }()
	until(t, "half of it is there", func() bool { return du(root) > 3*mib/2 })
	stop()
	close(goOn)
	if a := <-answered; a.err == nil {
		t.Errorf("whole: %v", a)
	}
	up.misbehave(nil)
	url, _ = process(t, up, root, 4*mib)
	clean(t, root)
	right(t, ask(t, http.MethodGet, url+"blobs/"+kept.String()), kept)
	if n := up.asked(kept.String()); n != 1 {
		t.Errorf("what was kept was fetched %d times", n)
	}
	right(t, ask(t, http.MethodGet, url+"blobs/"+d.String()), d)
	if used := du(root); used > 4*mib {
		t.Errorf("used %d", used)
	}
}

func TestAbortIsQuiet(t *testing.T) {
	up := newUpstream(t)
	url, stop := process(t, up, t.TempDir(), ample)
	d := up.blob(mib)
	up.misbehave(onBlob(corrupt))
	if a := ask(t, http.MethodGet, url+"blobs/"+d.String()); a.err == nil {
		t.Errorf("whole: %v", a)
	}
	if log := stop(); strings.Contains(log, "goroutine") || !strings.Contains(log, d.String()) {
		t.Errorf("log: %s", log)
	}
}
