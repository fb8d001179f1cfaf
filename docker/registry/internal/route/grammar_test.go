// SPDX-License-Identifier: GPL-3.0-or-later

package route

import (
	"regexp"
	"testing"
)

// Regular expressions of the OCI distribution specification 1.1.
var (
	repositoryExpression = regexp.MustCompile(`\A[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*\z`)
	tagExpression        = regexp.MustCompile(`\A[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\z`)
)

// FuzzGrammar checks that the scanners accept exactly what the specification's expressions match.
func FuzzGrammar(f *testing.F) {
	for _, seed := range []string{
		"a", "a/b", "a--b/c.d_e__f", "", "/", "a/", "/a", "a//b", "a.", ".a", "a..b", "a___b", "a_.b", "A", "_", "é", "a\n", "v1.0-B_",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := validRepository(s), len(s) <= 255 && repositoryExpression.MatchString(s); got != want {
			t.Errorf("repository %q: got %v, want %v", s, got, want)
		}
		if got, want := validTag(s), tagExpression.MatchString(s); got != want {
			t.Errorf("tag %q: got %v, want %v", s, got, want)
		}
	})
}
