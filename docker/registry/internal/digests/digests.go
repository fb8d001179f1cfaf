// SPDX-License-Identifier: GPL-3.0-or-later

// Package digests validates digests without a regular expression. Every request has a digest to validate, and the library's
// regular expression took a twentieth of its processor time.
package digests

import (
	_ "crypto/sha256" // for the library
	_ "crypto/sha512"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Valid reports whether a digest is a known algorithm with its number of lower-case hex digits. It agrees with the library's
// Validate.
func Valid(d digest.Digest) bool {
	algorithm, hex, _ := strings.Cut(string(d), ":")
	size := 0
	switch digest.Algorithm(algorithm) {
	case digest.SHA256:
		size = 64
	case digest.SHA384:
		size = 96
	case digest.SHA512:
		size = 128
	}
	if size == 0 || len(hex) != size {
		return false
	}
	for i := range len(hex) {
		if c := hex[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
