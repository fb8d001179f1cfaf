// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var body = bytes.Repeat([]byte("0123456789abcdef"), 40_000)

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func path(content []byte) string { return "/v2/some/blobs/" + digest(content) }

// serve starts a server. It returns its HOST:PORT and a function that returns the requests it has received.
func serve(t *testing.T, handler http.HandlerFunc) (string, func() []*http.Request) {
	t.Helper()
	var lock sync.Mutex
	var asked []*http.Request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lock.Lock()
		asked = append(asked, r)
		lock.Unlock()
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), func() []*http.Request {
		lock.Lock()
		defer lock.Unlock()
		return asked
	}
}

func sends(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content)
	}
}

// load runs one group with the command and returns its report.
func load(t *testing.T, g Group) GroupReport {
	t.Helper()
	if g.Seconds == 0 && g.Each == 0 {
		g.Each = 1
	}
	g.Clients = max(g.Clients, 1)
	plan, err := json.Marshal(Plan{Groups: []Group{g}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := command(bytes.NewReader(plan), &out); err != nil {
		t.Fatal(err)
	}
	var report Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	if report.Wall <= 0 || report.CPU <= 0 {
		t.Errorf("wall %v, cpu %v", report.Wall, report.CPU)
	}
	return report.Groups[0]
}

func TestBodiesAreChecked(t *testing.T) {
	wrong := bytes.Clone(body)
	wrong[300_000] ^= 1
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.Write(body[:1000])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		err     string
		hashed  int
	}{
		{"right", sends(body), "", 1},
		{"in chunks", func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }, "", 1},
		{"one wrong bit", sends(wrong), errDigest.Error(), 1},
		{"short", sends(body[:len(body)-1]), errSize.Error(), 0},
		{"long", sends(append(bytes.Clone(body), 'x')), errSize.Error(), 0},
		{"cut", cut, "cut: unexpected EOF", 0},
		{"another status", http.NotFound, "status 404", 0},
	} {
		for _, keep := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/keep=%v", test.name, keep), func(t *testing.T) {
				endpoint, _ := serve(t, test.handler)
				r := load(t, Group{Endpoints: []string{endpoint}, Targets: []Target{{Path: path(body), Size: int64(len(body))}}, Keep: keep})
				if r.Requests != 1 || r.Hashed != test.hashed || r.Hashed+r.Counted != 1 {
					t.Errorf("got %+v", r)
				}
				if (test.err == "") != (r.Failed == 0) || test.err != "" && r.Errors[test.err] != 1 {
					t.Errorf("got %d failed: %v", r.Failed, r.Errors)
				}
			})
		}
	}
}

func TestRanges(t *testing.T) {
	part := body[100:200]
	answers := func(header string, content []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", header)
			w.WriteHeader(http.StatusPartialContent)
			w.Write(content)
		}
	}
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		failed  int
	}{
		{"right", answers("bytes 100-199/640000", part), 0},
		{"another part", answers("bytes 101-200/640000", part), 1},
		{"not as long as it says", answers("bytes 100-200/640000", part), 1},
		{"wrong bytes", answers("bytes 100-199/640000", body[101:201]), 1},
		{"the whole", sends(body), 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint, asked := serve(t, test.handler)
			target := Target{Path: path(body), Range: "bytes=100-199", Digest: digest(part)}
			if r := load(t, Group{Endpoints: []string{endpoint}, Targets: []Target{target}}); r.Failed != test.failed {
				t.Errorf("got %+v", r)
			}
			if got := asked()[0].Header.Get("Range"); got != "bytes=100-199" {
				t.Errorf("asked for %q", got)
			}
		})
	}
}

func TestPull(t *testing.T) {
	manifest := []byte("manifest")
	blobs := [][]byte{[]byte("config"), body, []byte("another layer")}
	handler := func(tag []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Docker-Content-Digest", digest(tag))
			for _, content := range append(blobs, manifest) {
				if strings.HasSuffix(r.URL.Path, digest(content)) {
					w.Write(content)
				}
			}
		}
	}
	targets := []Target{{Path: "/v2/some/manifests/" + digest(manifest), Size: int64(len(manifest))}}
	size := int64(len(manifest))
	for _, content := range blobs {
		targets = append(targets, Target{Path: path(content), Size: int64(len(content))})
		size += int64(len(content))
	}
	for _, keep := range []bool{false, true} {
		endpoint, asked := serve(t, handler(manifest))
		r := load(t, Group{Kind: "pull", Endpoints: []string{endpoint}, Targets: targets, Clients: 2, Each: 2, Keep: keep})
		// A HEAD response has no body to hash.
		if r.Requests != 4 || r.Failed != 0 || r.Bytes != 4*size || r.Hashed != 16 || r.Counted != 4 || r.Statuses[200] != 20 {
			t.Errorf("keep %v: got %+v", keep, r)
		}
		from := map[string]bool{}
		for _, request := range asked() {
			from[request.RemoteAddr] = true
		}
		if len(from) < 4 || len(from) > 12 {
			t.Errorf("keep %v: %d connections, want one to three for each pull", keep, len(from))
		}
		if requests := asked(); requests[0].Method != http.MethodHead || len(requests) != 20 {
			t.Errorf("keep %v: asked %d, first %s", keep, len(requests), requests[0].Method)
		}
		if r.First.P50 <= 0 || r.First.P50 > r.Latency.P50 {
			t.Errorf("keep %v: first byte %v of %v", keep, r.First, r.Latency)
		}
	}
	endpoint, asked := serve(t, handler(body))
	r := load(t, Group{Kind: "pull", Endpoints: []string{endpoint}, Targets: targets})
	if r.Requests != 1 || r.Failed != 1 || r.Errors[errTag.Error()] != 1 || len(asked()) != 2 {
		t.Errorf("got %+v", r)
	}
}

func TestConnections(t *testing.T) {
	for _, reconnect := range []bool{false, true} {
		endpoint, asked := serve(t, sends(body))
		r := load(t, Group{
			Endpoints: []string{endpoint}, Targets: []Target{{Path: path(body)}}, Clients: 3, Each: 4, Reconnect: reconnect,
		})
		from := map[string]bool{}
		for _, request := range asked() {
			from[request.RemoteAddr] = true
		}
		if want := map[bool]int{false: 3, true: 12}[reconnect]; len(from) != want || r.Failed != 0 || r.Requests != 12 {
			t.Errorf("reconnect %v: %d connections, want %d; %+v", reconnect, len(from), want, r)
		}
	}
}

func TestClosedConnectionIsRetried(t *testing.T) {
	server := httptest.NewUnstartedServer(sends(body))
	server.Config.IdleTimeout = time.Millisecond
	server.Start()
	defer server.Close()
	r := load(t, Group{
		Endpoints: []string{server.Listener.Addr().String()}, Targets: []Target{{Path: path(body)}}, Each: 3, PerSecond: 20,
	})
	if r.Failed != 0 || r.Requests != 3 {
		t.Errorf("got %+v", r)
	}
}

func TestCredentials(t *testing.T) {
	t.Setenv("LOAD_TEST_PASSWORD", "from the environment")
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name        string
		group       Group
		user, right string // expected in every request, if not empty
	}{
		{"environment", Group{User: "nodes", PasswordEnv: "LOAD_TEST_PASSWORD"}, "nodes", "from the environment"},
		{"file", Group{User: "nodes", PasswordFile: file}, "nodes", "from a file"},
		{"wrong passwords", Group{User: "nodes", Guess: "password"}, "nodes", ""},
		{"unknown users", Group{Guess: "user"}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint, asked := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
			g := test.group
			g.Endpoints, g.Targets, g.Clients, g.Each = []string{endpoint}, []Target{{Path: "/v2/"}}, 3, 5
			g.Expect, g.Accept = []int{401, 429}, "some/type"
			if r := load(t, g); r.Failed != 0 || r.Statuses[401] != 15 {
				t.Errorf("got %+v", r)
			}
			seen := map[string]bool{}
			for _, request := range asked() {
				user, password, _ := request.BasicAuth()
				if test.user != "" && user != test.user || test.right != "" && password != test.right {
					t.Errorf("got %s:%s", user, password)
				}
				if got := request.Header.Get("Accept"); got != "some/type" {
					t.Errorf("accepts %q", got)
				}
				seen[user+":"+password] = true
			}
			if want := map[bool]int{true: 15, false: 1}[g.Guess != ""]; len(seen) != want {
				t.Errorf("%d credentials, want %d", len(seen), want)
			}
		})
	}
}

func TestRequestRate(t *testing.T) {
	endpoint, _ := serve(t, sends(body))
	r := load(t, Group{Endpoints: []string{endpoint}, Targets: []Target{{Path: path(body)}}, Clients: 2, Each: 5, PerSecond: 50})
	if r.Wall < 0.18 || r.Requests != 10 {
		t.Errorf("got %+v", r)
	}
}

// TestNoCoordinatedOmission checks that a request that is late because of the previous response starts when it was
// due.
func TestNoCoordinatedOmission(t *testing.T) {
	endpoint, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(50 * time.Millisecond)
		sends(body)(w, r)
	})
	r := load(t, Group{Endpoints: []string{endpoint}, Targets: []Target{{Path: path(body)}}, Each: 8, PerSecond: 100})
	if r.Latency.Max < 0.3 || r.First.Max < 0.3 {
		t.Errorf("got %+v", r)
	}
}

func TestSpread(t *testing.T) {
	endpoint, _ := serve(t, sends(body))
	r := load(t, Group{Endpoints: []string{endpoint}, Targets: []Target{{Path: path(body)}}, Clients: 4, Spread: 0.4})
	if r.Wall < 0.29 || r.Latency.P50 >= r.End.P50 {
		t.Errorf("got %+v", r)
	}
}

func TestSeconds(t *testing.T) {
	endpoint, _ := serve(t, sends(body))
	r := load(t, Group{Endpoints: []string{endpoint}, Targets: []Target{{Path: path(body)}}, Clients: 2, Seconds: 0.2})
	// A client that is done before then sends another request.
	if r.End.Max < 0.2 || r.Requests == 0 || r.Hashed != r.Requests || r.Bytes != int64(r.Requests*len(body)) {
		t.Errorf("got %+v", r)
	}
}

func TestHashEvery(t *testing.T) {
	wrong := append(bytes.Clone(body[1:]), 'x')
	endpoint, _ := serve(t, sends(wrong))
	target := Target{Path: path(body), Size: int64(len(body))}
	r := load(t, Group{Endpoints: []string{endpoint}, Targets: []Target{target}, Clients: 6, Each: 2, HashEvery: 3})
	if r.Hashed != 4 || r.Counted != 8 || r.Failed != 4 {
		t.Errorf("got %+v", r)
	}
}

func TestEndpointsInTurn(t *testing.T) {
	first, askedFirst := serve(t, sends(body))
	second, askedSecond := serve(t, sends(body))
	load(t, Group{Endpoints: []string{first, second}, Targets: []Target{{Path: path(body)}}, Clients: 4, Each: 2})
	if len(askedFirst()) != 4 || len(askedSecond()) != 4 {
		t.Errorf("asked %d and %d", len(askedFirst()), len(askedSecond()))
	}
}

func TestSlowReader(t *testing.T) {
	endpoint, _ := serve(t, sends(body))
	r := load(t, Group{Endpoints: []string{endpoint}, Targets: []Target{{Path: path(body)}}, Rate: int64(len(body) * 4)})
	if r.Failed != 0 || r.Latency.P50 < 0.2 || r.First.P50 >= r.Latency.P50 {
		t.Errorf("got %+v", r)
	}
}

func TestSlowBodyDoesNotTimeOut(t *testing.T) {
	endpoint, _ := serve(t, sends(body))
	g := Group{Endpoints: []string{endpoint}, Targets: []Target{{Path: path(body)}}, Rate: int64(len(body)), Timeout: 0.3}
	if r := load(t, g); r.Failed != 0 {
		t.Errorf("got %+v", r)
	}
}

func TestSlowSenders(t *testing.T) {
	server := httptest.NewUnstartedServer(sends(body))
	server.Config.ReadHeaderTimeout = 60 * time.Millisecond
	server.Start()
	defer server.Close()
	patient, asked := serve(t, sends(body))
	group := Group{Kind: "slow-send", Targets: []Target{{Path: "/"}}, Clients: 5, Seconds: 1, SendEveryMS: 20}
	group.Endpoints = []string{server.Listener.Addr().String()}
	if r := load(t, group); r.Closed < 5 || r.Connections < 10 || r.Connections > 25 || r.Requests != 0 {
		t.Errorf("a server with a limit: %+v", r)
	}
	group.Endpoints = []string{patient}
	if r := load(t, group); r.Closed != 0 || r.Connections != 5 || len(asked()) != 0 {
		t.Errorf("a server without: %+v", r)
	}
}

func TestSilentServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	g := Group{Endpoints: []string{listener.Addr().String()}, Targets: []Target{{Path: "/"}}, Timeout: 0.1}
	if r := load(t, g); r.Failed != 1 || r.Errors["no response: i/o timeout"] != 1 || r.First.P50 < 0.1 {
		t.Errorf("got %+v", r)
	}
	listener.Close()
	if r := load(t, g); r.Failed != 1 || r.Requests != 1 || r.Errors["connect: connect: connection refused"] != 1 {
		t.Errorf("got %+v", r)
	}
}

func TestGroupsRunTogether(t *testing.T) {
	var once sync.Once
	second := make(chan struct{})
	endpoint, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/second" {
			once.Do(func() { close(second) })
			return
		}
		<-second
	})
	plan := fmt.Sprintf(`{"groups": [
		{"name": "a", "endpoints": [%q], "targets": [{"path": "/first"}], "clients": 1, "each": 1, "timeout": 5},
		{"name": "b", "endpoints": [%q], "targets": [{"path": "/second"}], "clients": 1, "each": 1}]}`, endpoint, endpoint)
	parsed, err := readPlan(strings.NewReader(plan))
	if err != nil {
		t.Fatal(err)
	}
	report, err := run(parsed)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"a", "b"} {
		if g := report.Groups[i]; g.Name != name || g.Failed != 0 || g.Requests != 1 {
			t.Errorf("got %+v", g)
		}
	}
}

func TestInvalidPlans(t *testing.T) {
	const good = `"endpoints": ["127.0.0.1:1"], "targets": [{"path": "/"}], "clients": 1`
	for _, test := range []struct{ name, group, key string }{
		{"an unknown key", good + `, "each": 1, "paths": []`, "paths"},
		{"no end", good, "each"},
		{"two ends", good + `, "each": 1, "seconds": 1`, "each"},
		{"an unknown kind", good + `, "each": 1, "kind": "push"`, "kind"},
		{"no clients", `"endpoints": ["127.0.0.1:1"], "targets": [{"path": "/"}], "each": 1`, "clients"},
		{"no endpoint", `"targets": [{"path": "/"}], "clients": 1, "each": 1`, "endpoints"},
		{"no target", `"endpoints": ["127.0.0.1:1"], "clients": 1, "each": 1`, "targets"},
		{"two lines in a path", strings.Replace(good, `"/"`, `"/\r\nX: y"`, 1) + `, "each": 1`, "targets[0]"},
		{"two lines in accept", good + `, "each": 1, "accept": "a\r\nb"`, "accept"},
		{"no size to keep", good + `, "each": 1, "keep": true`, "size"},
		{"endless bodies to keep", strings.Replace(good, `"/"`, `"/", "size": 1`, 1) + `, "seconds": 1, "keep": true`, "keep"},
		{"a negative part", good + `, "each": 1, "hash_every": -1`, "hash_every"},
		{"an unknown guess", good + `, "each": 1, "guess": "all"`, "guess"},
		{"a slow sender without a pace", good + `, "seconds": 1, "kind": "slow-send"`, "send_every_ms"},
		{"a password that is not there", good + `, "each": 1, "password_env": "LOAD_TEST_MISSING"`, "password_env"},
		{"a file that is not there", good + `, "each": 1, "password_file": "/nonexistent"`, "password_file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := readPlan(strings.NewReader(`{"groups": [{` + test.group + `}]}`))
			if err == nil || !strings.Contains(err.Error(), test.key) {
				t.Errorf("got %v, want an error about %s", err, test.key)
			}
		})
	}
	for _, plan := range []string{`{}`, `{"groups": []}`, `[`} {
		if _, err := readPlan(strings.NewReader(plan)); err == nil {
			t.Errorf("%s was taken", plan)
		}
	}
}

func TestPercentiles(t *testing.T) {
	if got := percentiles(nil); got != (Percentiles{}) {
		t.Errorf("got %v", got)
	}
	times := make([]time.Duration, 200)
	for i := range times {
		times[i] = time.Duration(200-i) * time.Second
	}
	if got, want := percentiles(times), (Percentiles{100, 180, 198, 200}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := percentiles(times[:1]), (Percentiles{1, 1, 1, 1}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
