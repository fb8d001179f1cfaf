// SPDX-License-Identifier: GPL-3.0-or-later

package digests

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// FuzzValid compares Valid with digest.Digest.Validate.
func FuzzValid(f *testing.F) {
	for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		d := string(a.FromString("content"))
		for _, s := range []string{
			d, d[:len(d)-1], d + "0", d[:len(d)-1] + "g", d[:len(d)-1] + "A", d[:len(d)-1] + "\n", d + "\n", " " + d,
			strings.ToUpper(d), strings.Replace(d, ":", "", 1), strings.Replace(d, ":", "::", 1), a.String(), a.String() + ":",
			strings.Replace(d, "sha", "SHA", 1), "x+" + d, d[len(a):], d + ":" + d,
		} {
			f.Add(s)
		}
	}
	f.Add("")
	f.Add("md5:d41d8cd98f00b204e9800998ecf8427e")
	f.Add("sha256:" + strings.Repeat("0", 96))
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := Valid(digest.Digest(s)), digest.Digest(s).Validate() == nil; got != want {
			t.Errorf("%q: got %v, want %v", s, got, want)
		}
	})
}
