// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

// TestRun checks that the program accepts its two commands, and none of distribution's.
func TestRun(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent.yaml")
	for _, test := range []struct {
		arguments     []string
		status        int
		out, problems string
	}{
		{nil, 2, "", "usage: registry cache CONFIG"},
		{[]string{"cache"}, 2, "", "usage: "},
		{[]string{"cache", absent, absent}, 2, "", "usage: "},
		{[]string{"serve", absent}, 2, "", "usage: "},
		{[]string{"garbage-collect", absent}, 2, "", "usage: "},
		{[]string{"--version"}, 0, "registry github.com/distribution/distribution/v3 ", ""},
		{[]string{"cache", absent}, 1, "", ""}, // cache.Main writes the error to standard error itself
	} {
		var out, problems bytes.Buffer
		status := run(test.arguments, &out, &problems)
		if status != test.status || !strings.HasPrefix(out.String(), test.out) || !strings.HasPrefix(problems.String(), test.problems) {
			t.Errorf("%q: %d, %q, %q", test.arguments, status, &out, &problems)
		}
		if test.out == "" && out.Len() > 0 || test.problems == "" && problems.Len() > 0 {
			t.Errorf("%q says %q, %q", test.arguments, &out, &problems)
		}
	}
}
