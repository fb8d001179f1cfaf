// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const minimal = `
auth: none
store: {path: /var/lib/registry-cache, limit: 20Gi}
upstreams:
  - host: us-central1-docker.pkg.dev
`

const full = `
listen: "127.0.0.1:5000"
tls: {certificate: /tls/tls.crt, key: /tls/tls.key}
metrics: {listen: ":5006"}
pprof: {listen: "[::1]:6060"}
auth: {htpasswd: /auth/htpasswd}
store: {path: /data, limit: 64Mi, memory: 0, scrub_rate: 1Mi}
upstreams:
  - host: us-central1-docker.pkg.dev
    credential: {helper: docker-credential-gcr, lifetime: 90s, timeout: 5s}
  - {host: "registry.example:5443", url: "http://127.0.0.1:8080/", share_blobs: false}
tags: {ttl: 0s}
fill: {stall_timeout: 1m, abandoned: 0, minimum_rate: 100}
outage: {challenge_timeout: 1s, manifest_timeout: 1s, blob_timeout: 1s, remember: 0s}
limits: {header_bytes: 16384, header_timeout: 1s, idle_timeout: 1m, send_timeout: 30s, unauthenticated_connections: 1}
log: {level: debug, access: 1/100}
drain: 1h30m
peers: {listen: ":5005", service: peers.cache.svc.cluster.local, name: registry-cache-0, secret: /peers/secret}
`

func TestDefaults(t *testing.T) {
	c, err := Parse([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.Auth.None = true
	want.Store.Path, want.Store.Limit = "/var/lib/registry-cache", 20*Gi
	want.Upstreams = []Upstream{{Host: "us-central1-docker.pkg.dev", ShareBlobs: true}}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

func TestEveryKey(t *testing.T) {
	c, err := Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Listen:  "127.0.0.1:5000",
		TLS:     &TLS{"/tls/tls.crt", "/tls/tls.key"},
		Metrics: &Endpoint{":5006"},
		Pprof:   &Endpoint{"[::1]:6060"},
		Auth:    Auth{Htpasswd: "/auth/htpasswd"},
		Store:   Store{"/data", 64 * Mi, 0, Mi},
		Upstreams: []Upstream{
			{Host: "us-central1-docker.pkg.dev", Credential: &Credential{"docker-credential-gcr", 90 * time.Second, 5 * time.Second}, ShareBlobs: true},
			{Host: "registry.example:5443", URL: "http://127.0.0.1:8080/"},
		},
		Fill:   Fill{time.Minute, 0, 100},
		Outage: Outage{time.Second, time.Second, time.Second, 0},
		Limits: Limits{16 * Ki, time.Second, time.Minute, 30 * time.Second, 1},
		Log:    Log{"debug", 100},
		Drain:  90 * time.Minute,
		Peers:  &Peers{Listen: ":5005", Service: "peers.cache.svc.cluster.local", Name: "registry-cache-0", Secret: "/peers/secret"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

// with returns the minimal configuration with additional lines, which replace existing keys.
func with(lines string) string {
	kept := ""
	for _, block := range []string{"auth: none\n", "store: {path: /var/lib/registry-cache, limit: 20Gi}\n", "upstreams:\n  - host: us-central1-docker.pkg.dev\n"} {
		key, _, _ := strings.Cut(block, ":")
		if !strings.HasPrefix(lines, key+":") && !strings.Contains(lines, "\n"+key+":") {
			kept += block
		}
	}
	return kept + lines + "\n"
}

// peers returns a peers section with additional keys.
func peers(rest string) string {
	if !strings.Contains(rest, "secret:") {
		rest += ", secret: /s"
	}
	return "peers: {" + rest + "}"
}

func TestInvalid(t *testing.T) {
	upstream := func(rest string) string { return "upstreams:\n  - {host: a.example, " + rest + "}" }
	for _, test := range []struct {
		name, content string
		key           string // key of the problem
		got           string // expected in the error
	}{
		{"unknown key", with("listne: \":5000\""), "listne", ""},
		{"unknown nested key", with("limits: {header_byte: 1Ki}"), "limits.header_byte", ""},
		{"unknown key of an upstream", with(upstream("hots: b")), "upstreams[0].hots", ""},
		{"duplicate key", with("drain: 1s\ndrain: 2s"), "drain", ""},
		{"duplicate nested key", with("log: {level: info, level: warn}"), "log.level", ""},
		{"number for an address", with("listen: 5000"), "listen", "5000"},
		{"mapping for an address", with("listen: {port: 5000}"), "listen", "a mapping"},
		{"list for a mapping", with("limits: [1]"), "limits", "a list"},
		{"mapping for a list", with("upstreams: {host: a.example}"), "upstreams", "a mapping"},
		{"text for a number", with("fill: {abandoned: many}"), "fill.abandoned", "many"},
		{"fraction for a number", with("fill: {abandoned: 1.5}"), "fill.abandoned", "1.5"},
		{"octal number", with("fill: {abandoned: 0o17}"), "fill.abandoned", "0o17"},
		{"negative number", with("fill: {abandoned: -1}"), "fill.abandoned", "-1"},
		{"huge number", with("fill: {abandoned: 99999999999}"), "fill.abandoned", "99999999999"},
		{"text for a boolean", with(upstream("share_blobs: yes")), "upstreams[0].share_blobs", "yes"},
		{"number for a boolean", with(upstream("share_blobs: 1")), "upstreams[0].share_blobs", "1"},
		{"duration without unit", with("drain: 60"), "drain", "60"},
		{"negative duration", with("drain: -1s"), "drain", "-1s"},
		{"long duration", with("drain: 25h"), "drain", "25h"},
		{"zero timeout", with("limits: {header_timeout: 0s}"), "limits.header_timeout", "0s"},
		{"decimal size", with("store: {path: /d, limit: 20GB}"), "store.limit", "20GB"},
		{"fraction of a size", with("store: {path: /d, limit: 1.5Gi}"), "store.limit", "1.5Gi"},
		{"overflowing size", with("store: {path: /d, limit: 99999999Ti}"), "store.limit", "99999999Ti"},
		{"signed size", with("store: {path: /d, limit: +64Mi}"), "store.limit", "+64Mi"},
		{"small store", with("store: {path: /d, limit: 65535Ki}"), "store.limit", "65535Ki"},
		{"zero store", with("store: {path: /d, limit: 0}"), "store.limit", "0"},
		{"no store limit", with("store: {path: /d}"), "store.limit", ""},
		{"no store path", with("store: {limit: 1Gi}"), "store.path", ""},
		{"relative store path", with("store: {path: d, limit: 1Gi}"), "store.path", "d"},
		{"null", with("tls:"), "tls", "is empty"},
		{"null in a list", with("upstreams: [null]"), "upstreams[0]", "is empty"},
		{"anchor", with("metrics: &a {listen: \":1\"}"), "metrics", ""},
		{"merge key", with("limits: {<<: {header_bytes: 16Ki}}"), "limits.<<", ""},
		{"no port", with("listen: localhost"), "listen", "localhost"},
		{"name in an address", with("listen: \"localhost:5000\""), "listen", "localhost:5000"},
		{"named port", with("listen: \":http\""), "listen", ":http"},
		{"large port", with("listen: \":70000\""), "listen", ":70000"},
		{"port taken twice", with("metrics: {listen: \"127.0.0.1:5000\"}"), "metrics.listen", "127.0.0.1:5000"},
		{"profiler for everybody", with("pprof: {listen: \":6060\"}"), "pprof.listen", ":6060"},
		{"profiler on a network", with("pprof: {listen: \"10.0.0.1:6060\"}"), "pprof.listen", "10.0.0.1:6060"},
		{"empty endpoint", with("metrics: {}"), "metrics.listen", ""},
		{"certificate without key", with("tls: {certificate: /c}"), "tls.key", ""},
		{"key without certificate", with("tls: {key: /k}"), "tls.certificate", ""},
		{"no auth", strings.Replace(minimal, "auth: none", "", 1), "auth", ""},
		{"boolean for auth", with("auth: false"), "auth", "false"},
		{"misspelt auth", with("auth: nobody"), "auth", "nobody"},
		{"empty auth", with("auth: {}"), "auth", ""},
		{"a mapping with none", with("auth: {none: true}"), "auth", ""},
		{"unknown auth", with("auth: {token: /x}"), "auth.token", ""},
		{"relative htpasswd", with("auth: {htpasswd: x}"), "auth.htpasswd", "x"},
		{"no upstream", with("upstreams: []"), "upstreams", ""},
		{"upstream without host", with("upstreams: [{url: https://a.example}]"), "upstreams[0].host", ""},
		{"upstream twice", with("upstreams: [{host: a.example}, {host: a.example}]"), "upstreams[1].host", "a.example"},
		{"URL for a host", with("upstreams: [{host: https://a.example}]"), "upstreams[0].host", "https://a.example"},
		{"host in upper case", with("upstreams: [{host: A.example}]"), "upstreams[0].host", "A.example"},
		{"host with a path", with("upstreams: [{host: a.example/b}]"), "upstreams[0].host", "a.example/b"},
		{"URL without scheme", with(upstream("url: a.example")), "upstreams[0].url", "a.example"},
		{"URL with a path", with(upstream("url: https://a.example/v2")), "upstreams[0].url", "https://a.example/v2"},
		{"URL with a query", with(upstream("url: \"https://a.example/?x\"")), "upstreams[0].url", "https://a.example/?x"},
		{"credential without helper", with(upstream("credential: {}")), "upstreams[0].credential.helper", ""},
		{"helper with arguments", with(upstream("credential: {helper: gcr get}")), "upstreams[0].credential.helper", "gcr get"},
		{"relative helper", with(upstream("credential: {helper: ./gcr}")), "upstreams[0].credential.helper", "./gcr"},
		{"zero lifetime", with(upstream("credential: {helper: gcr, lifetime: 0s}")), "upstreams[0].credential.lifetime", "0s"},
		{"log level", with("log: {level: loud}"), "log.level", "loud"},
		{"access log", with("log: {access: on}"), "log.access", "on"},
		{"sample of none", with("log: {access: 1/0}"), "log.access", "1/0"},
		{"small header", with("limits: {header_bytes: 1Ki}"), "limits.header_bytes", "1Ki"},
		{"no connections", with("limits: {unauthenticated_connections: 0}"), "limits.unauthenticated_connections", "0"},
		{"peers without a secret", with("peers: {service: a.b, name: a}"), "peers.secret", ""},
		{"relative secret", with(peers("service: a.b, name: a, secret: s")), "peers.secret", "s"},
		{"peers without a service", with(peers("name: a")), "peers.service", ""},
		{"service and members", with(peers("service: a.b, members: [{name: b, address: \"b:1\"}], name: a")), "peers.members", ""},
		{"no members", with(peers("service: a.b, members: [], name: a")), "peers.members", ""},
		{"service with a port", with(peers("service: \"a.b:5005\", name: a")), "peers.service", "a.b:5005"},
		{"name in upper case", with(peers("service: a.b, name: A")), "peers.name", "A"},
		{"a name with a dot", with(peers("service: a.b, name: a.b")), "peers.name", "a.b"},
		{"member without a port", with(peers("members: [{name: b, address: b}], name: a")), "peers.members[0].address", "b"},
		{"member without a name", with(peers("members: [{address: \"b:1\"}], name: a")), "peers.members[0].name", ""},
		{"member twice", with(peers("members: [{name: b, address: \"b:1\"}, {name: b, address: \"b:2\"}], name: a")), "peers.members[1].name", "b"},
		{"peers on the port of clients", with(peers("listen: \":5000\", service: a.b, name: a")), "peers.listen", ":5000"},
		{"unknown key of peers", with(peers("service: a.b, name: a, port: 1")), "peers.port", ""},
		{"not YAML", "listen: [", "", ""},
		{"not UTF-8", "listen: \"\xff\"", "", ""},
		{"two documents", minimal + "---\n" + minimal, "", ""},
		{"scalar document", "hello", "", "hello"},
		{"deep nesting", "listen: " + strings.Repeat("[", 20_000), "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse([]byte(test.content))
			var problems Errors
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want Problems", err)
			}
			if len(problems) != 1 {
				t.Fatalf("got %d problems, want one:\n%v", len(problems), err)
			}
			p := problems[0]
			if p.Key != test.key || !strings.Contains(p.Error(), test.got) {
				t.Errorf("got key %q (%v), want %q with %q", p.Key, p, test.key, test.got)
			}
			if p.Fix == "" || strings.ContainsAny(p.Error(), "\n") {
				t.Errorf("not one sentence with a fix: %v", p)
			}
		})
	}
}

func TestAllProblemsAreFound(t *testing.T) {
	_, err := Parse([]byte("listen: 1\ndrain: 5\nstore: {path: x, limit: 1Mi}\nextra: 1\nupstreams: [{host: A}]"))
	var keys []string
	var problems Errors
	errors.As(err, &problems)
	for _, p := range problems {
		keys = append(keys, p.Key)
	}
	want := []string{"listen", "drain", "extra", "auth", "store.path", "store.limit", "upstreams[0].host"}
	if !reflect.DeepEqual(keys, want) {
		t.Errorf("got %q, want %q", keys, want)
	}
}

func TestEmptyFileNamesRequiredKeys(t *testing.T) {
	_, err := Parse([]byte("# nothing\n"))
	for _, key := range []string{"auth", "store.path", "store.limit", "upstreams"} {
		if err == nil || !strings.Contains(err.Error(), key+" ") {
			t.Errorf("%q is not named in %v", key, err)
		}
	}
}

func TestPasswordInURLIsNotRepeated(t *testing.T) {
	for _, url := range []string{"https://user:hunter2@a.example", "ftp://user:hunter2@a.example", "https://user:hunter2@a.example:port"} {
		_, err := Parse([]byte(with("upstreams: [{host: a.example, url: \"" + url + "\"}]")))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v", err)
		}
	}
}

func TestErrorText(t *testing.T) {
	_, err := Parse([]byte(with("store: {path: /d, limit: 10Mi}")))
	want := `store.limit must be at least 64Mi (got "10Mi", line 4); write, for example, limit: 20Gi`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestUnknownKeySuggestsSimilarOne(t *testing.T) {
	_, err := Parse([]byte(with("upstream: []")))
	if err == nil || !strings.Contains(err.Error(), "write upstreams") {
		t.Errorf("got %v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	content := with("store: {path: " + dir + "/store, limit: 64Mi}")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err != nil {
		t.Error(err)
	}
	if _, err := Load(path + ".missing"); err == nil || !strings.Contains(err.Error(), path+".missing") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(path, []byte(with("store: {path: "+path+", limit: 64Mi}")), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Load(path); c != nil || err == nil || !strings.Contains(err.Error(), "store.path") {
		t.Errorf("got %v, %v", c, err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("#", maxFileSize+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "1 MiB") {
		t.Errorf("got %v", err)
	}
}

// FuzzParse checks that Parse never panics, and that a parsed configuration can be marshaled and parsed again.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		minimal, full, "", "---\n", "a: &b [*b]", "auth: {htpasswd: /x}", "? [a]\n: b", "store: !!binary aGk=", "listen: !x \":1\"",
		with("log: {access: \"off\"}"), with("listen: \":0\""), with("drain: 1.5h"), with("<<: {drain: 1s}"), "%YAML 1.1\n---\n" + minimal,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		c, err := Parse(content)
		if err != nil {
			if c != nil || strings.TrimSpace(err.Error()) == "" {
				t.Fatalf("got %v with error %q", c, err)
			}
			return
		}
		if problems := c.validate(nil); len(problems) > 0 {
			t.Fatalf("parsed, but %v", problems)
		}
		written, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(written)
		if err != nil {
			t.Fatalf("%v\nin what was written:\n%s", err, written)
		}
		if !reflect.DeepEqual(c, again) {
			t.Fatalf("got %+v, want %+v, from:\n%s", again, c, written)
		}
	})
}
