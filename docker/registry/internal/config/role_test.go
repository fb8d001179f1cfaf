// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestRoleCacheWritesValidFiles parses the files with which the unit test of role cache compares rendered
// configurations.
func TestRoleCacheWritesValidFiles(t *testing.T) {
	host, _ := os.Hostname()
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	peers := &Peers{Listen: ":5005", Service: "registry-cache-replicas", Name: host, Secret: "/etc/registry-cache/peers/secret"}

	usual := defaultConfig()
	usual.Peers = peers
	usual.Metrics = &Endpoint{":5006"}
	usual.Auth.Htpasswd = "/etc/registry-cache/auth/htpasswd"
	usual.Store.Path, usual.Store.Limit = "/var/lib/registry", 20*Gi
	credential := func(lifetime time.Duration) *Credential {
		return &Credential{"docker-credential-gcr", lifetime, 10 * time.Second}
	}
	usual.Upstreams = []Upstream{{Host: "upstream.example", Credential: credential(9 * time.Minute), ShareBlobs: true}}

	small := defaultConfig()
	small.Peers = peers
	small.Auth.None = true
	small.Store.Path, small.Store.Limit = "/var/lib/registry", 64*Mi
	small.Upstreams = []Upstream{
		{Host: "one.example", Credential: credential(90 * time.Second)},
		{Host: "two.example:5000", Credential: credential(90 * time.Second)},
	}
	small.Tags.TTL, small.Drain = 24*time.Hour, time.Hour

	for name, want := range map[string]*Config{"default": usual, "small": small} {
		content, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if c, err := Parse(content); err != nil || !reflect.DeepEqual(c, want) {
			t.Errorf("%s: got %+v, %v, want %+v", name, c, err, want)
		}
	}
}
