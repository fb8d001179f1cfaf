// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

var (
	// pageRow matches a table row in docs/usage/metrics.md: the metric, its type, its labels.
	pageRow = regexp.MustCompile("(?m)^\\| `(registry_cache_\\w+)` \\| (\\w+) \\|([^|]*)\\| .+ \\|$")
	word    = regexp.MustCompile("`(\\w+)`")
	typed   = regexp.MustCompile(`(?m)^# TYPE (registry_cache_\w+) (\w+)$`)
	label   = regexp.MustCompile(`(\w+)="`)
)

// TestThePageNamesEveryMetric compares the metrics of a replica with users and peers with docs/usage/metrics.md: names,
// types, labels.
func TestThePageNamesEveryMetric(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "docs", "usage", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := map[string]string{}
	for _, row := range pageRow.FindAllStringSubmatch(string(content), -1) {
		var labels []string
		for _, found := range word.FindAllStringSubmatch(row[3], -1) {
			labels = append(labels, found[1])
		}
		slices.Sort(labels)
		page[row[1]] = fmt.Sprint(row[2], labels)
	}

	dir := t.TempDir()
	hash, err := bcrypt.GenerateFromPassword([]byte("right-password"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users, secret := filepath.Join(dir, "htpasswd"), filepath.Join(dir, "secret")
	for file, line := range map[string]string{users: "user:" + string(hash), secret: strings.Repeat("s", 32)} {
		if err := os.WriteFile(file, []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u := newRegistry(t)
	_, blob := u.image("v1", testutil.RandomBytes(mib))
	peers := fmt.Sprintf("peers: {listen: 127.0.0.1:0, name: one, secret: %s, members: [{name: one, address: \"127.0.0.1:1\"}]}", secret)
	r := start(t, configuration(t, filepath.Join(dir, "store"), "auth: {htpasswd: "+users+"}\n"+peers, u))
	for _, path := range []string{"/v2/a/b/manifests/v1", "/v2/a/b/blobs/" + blob.String()} {
		if a := r.get(path, "Authorization", basic("user", "right-password")); a.status != 200 {
			t.Fatalf("%s: %d %v", path, a.status, a.err)
		}
	}

	shown := map[string]string{}
	text := string(fetch(r.metricsAddress(), "/metrics").body)
	for _, found := range typed.FindAllStringSubmatch(text, -1) {
		name, sample := found[1], found[1]
		if found[2] == "histogram" {
			sample += "_count"
		}
		line := regexp.MustCompile(`(?m)^` + sample + `(?:\{(.*)\})? `).FindStringSubmatch(text)
		if line == nil {
			t.Errorf("%s has no sample", name)
			continue
		}
		var labels []string
		for _, found := range label.FindAllStringSubmatch(line[1], -1) {
			labels = append(labels, found[1])
		}
		slices.Sort(labels)
		shown[name] = fmt.Sprint(found[2], labels)
	}
	for name := range maps.Keys(shown) {
		if page[name] != shown[name] {
			t.Errorf("%s: the page has %q, the program exports %q", name, page[name], shown[name])
		}
	}
	for name := range maps.Keys(page) {
		if shown[name] == "" {
			t.Errorf("%s: the program does not show it", name)
		}
	}
}
