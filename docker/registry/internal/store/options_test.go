// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInvalidOptions checks that errors contain the key, the value and a fix in one line.
func TestInvalidOptions(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	used := t.TempDir()
	if s, err := New(testOptions(used, MinLimit)); err != nil {
		t.Fatal(err)
	} else {
		defer s.Close()
	}
	for name, test := range map[string]struct {
		path       string
		limit      int64
		key, value string
	}{
		"no path":            {"", MinLimit, "store.path", `""`},
		"no limit":           {dir, 0, "store.limit", `"0"`},
		"a limit too low":    {dir, MinLimit - 1, "store.limit", `"67108863"`},
		"a negative limit":   {dir, -1, "store.limit", `"-1"`},
		"a file":             {file, MinLimit, "store.path", file},
		"below a file":       {file + "/x", MinLimit, "store.path", file},
		"not to be written":  {"/proc/1/nowhere", MinLimit, "store.path", "/proc/1/nowhere"},
		"used by this one":   {used, MinLimit, "store.path", used},
		"read-only":          {"/sys/kernel", MinLimit, "store.path", "/sys/kernel"},
		"a name with a null": {"/tmp/a\x00b", MinLimit, "store.path", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(testOptions(test.path, test.limit))
			var config *ConfigError
			if !errors.As(err, &config) {
				t.Fatalf("%v", err)
			}
			text := err.Error()
			if config.Key != test.key || !strings.Contains(text, test.value) || !strings.Contains(text, "example") || strings.Contains(text, "\n") {
				t.Errorf("%s", text)
			}
		})
	}
	for _, name := range []string{"../x", "", ".", "a/b", "UPPER"} {
		if _, err := (&Store{}).Upstream(name); !errors.As(err, new(*ConfigError)) {
			t.Errorf("upstream %q: %v", name, err)
		}
	}
}

// TestUpstreamNames checks that all hosts that are valid in an image reference are accepted.
func TestUpstreamNames(t *testing.T) {
	s, _ := testStore(t, 64*mib)
	for _, name := range []string{"docker.io", "localhost:5000", "127.0.0.1:9", "[::1]:5443", "[fd00::1]"} {
		u, err := s.Upstream(name)
		if err != nil {
			t.Fatal(err)
		}
		d := keep(t, u, "r", []byte(name))
		s, _ = reopen(t, s)
		part, err := s.Upstream(name)
		if err != nil || !has(t, part, "r", d) {
			t.Errorf("%s: not stored, %v", name, err)
		}
	}
}
