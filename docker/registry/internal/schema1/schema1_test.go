// SPDX-License-Identifier: GPL-3.0-or-later

package schema1

import (
	_ "crypto/sha512" // registers a digest algorithm
	"testing"

	"github.com/opencontainers/go-digest"
)

// The signature covers {"a":1 followed by }.
const (
	payload  = `{"a":1}`
	manifest = `{"a":1,"signatures":[{"protected":"eyJmb3JtYXRMZW5ndGgiOjYsImZvcm1hdFRhaWwiOiJmUSJ9"}]}`
)

func TestHasDigest(t *testing.T) {
	for _, c := range []struct {
		of, mediaType, content string
		want                   bool
	}{
		{payload, Signed, manifest, true},
		{payload, Plain + "; charset=utf-8", manifest, true},
		{manifest, Signed, manifest, true},
		{"another", Signed, manifest, false},
		{payload, "application/vnd.oci.image.manifest.v1+json", manifest, false},
		{payload, Signed + "x", manifest, false},
		{payload, Signed, `{"a":2,"signatures":[{"protected":"eyJmb3JtYXRMZW5ndGgiOjYsImZvcm1hdFRhaWwiOiJmUSJ9"}]}`, false},
		{payload, Signed, `{"a":1}` + " ", false},
		{payload, Signed, "no JSON", false},
		{"anything", "", "anything", true},
	} {
		if got := HasDigest(digest.FromString(c.of), c.mediaType, []byte(c.content)); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if !HasDigest(digest.SHA512.FromString(payload), Signed, []byte(manifest)) {
		t.Error("not by another algorithm")
	}
}

// FuzzSigned checks that the signed part is always a prefix of the content followed by a tail.
func FuzzSigned(f *testing.F) {
	f.Add([]byte(manifest))
	f.Add([]byte(`{"signatures":[{"protected":"eyJmb3JtYXRMZW5ndGgiOi0xfQ"}]}`))
	f.Add([]byte(`{"signatures":[]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		before := string(content)
		_, _ = signedPart(content)
		if string(content) != before {
			t.Error("changed")
		}
	})
}
