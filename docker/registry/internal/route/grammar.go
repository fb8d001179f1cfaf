// SPDX-License-Identifier: GPL-3.0-or-later

package route

import "strings"

// Limits of the distribution specification.
const (
	repositoryLimit = 255
	tagLimit        = 128
)

// validRepository reports whether a name matches the specification's grammar. A regular expression would make Parse
// four times slower.
func validRepository(name string) bool {
	if len(name) > repositoryLimit {
		return false
	}
	for component := range strings.SplitSeq(name, "/") {
		if !validComponent(component) {
			return false
		}
	}
	return true
}

// validComponent reports whether runs of letters and digits alternate with separators: ".", "_", "__" or any number of "-".
func validComponent(component string) bool {
	for {
		n := prefixLen(component, isAlphanumeric)
		if n == 0 {
			return false
		}
		component = component[n:]
		if component == "" {
			return true
		}
		n = prefixLen(component, func(c byte) bool { return c == component[0] })
		switch {
		case component[0] == '-', component[0] == '.' && n == 1, component[0] == '_' && n <= 2:
			component = component[n:]
		default:
			return false
		}
	}
}

// validTag reports whether a reference is a tag.
func validTag(reference string) bool {
	if reference == "" || len(reference) > tagLimit || reference[0] == '.' || reference[0] == '-' {
		return false
	}
	return prefixLen(reference, func(c byte) bool {
		return isAlphanumeric(c) || 'A' <= c && c <= 'Z' || c == '_' || c == '.' || c == '-'
	}) == len(reference)
}

// isAlphanumeric reports whether c is a lower-case letter or a digit.
func isAlphanumeric(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// prefixLen returns the length of the longest prefix whose bytes all match.
func prefixLen(s string, match func(byte) bool) int {
	for i := range len(s) {
		if !match(s[i]) {
			return i
		}
	}
	return len(s)
}
