// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"pullthrough.registry_cache/docker/registry/internal/schema1"
)

// Media types that package image-spec does not define.
const (
	dockerManifest      = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList  = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerSchema1       = schema1.Plain
	dockerSchema1Signed = schema1.Signed
	ociArtifact         = "application/vnd.oci.artifact.manifest.v1+json"
)

// knownTypes are the manifest types that clients accept, in the order of the bits of a class.
var knownTypes = [...]string{
	v1.MediaTypeImageIndex, dockerManifestList, v1.MediaTypeImageManifest, dockerManifest, ociArtifact, dockerSchema1Signed, dockerSchema1,
}

// acceptAny is the Accept header for a tag, which accepts any manifest. It omits the old types, to which some upstreams
// would convert.
var acceptAny = strings.Join(knownTypes[:5], ", ") + ", */*;q=0.1"

// A class is a bit set of the known types that a client accepts.
type class uint8

// acceptHeader returns the Accept header for a class. The empty class accepts everything.
func (c class) acceptHeader() string {
	if c == 0 {
		return acceptAny
	}
	var names []string
	for i, name := range knownTypes {
		if c&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// accepts reports whether a client's Accept fields include a media type. A client without types accepts all types. So
// does a client that accepts any JSON, since upstreams do not refuse it.
func accepts(fields []string, mediaType string) bool {
	mediaType, _, _ = strings.Cut(mediaType, ";")
	mediaType = strings.TrimSpace(mediaType)
	wide, named := false, false
	for name, refused := range mediaRanges(fields) {
		switch {
		case strings.EqualFold(name, mediaType):
			return !refused
		case refused:
		case name == "*/*", strings.EqualFold(name, "application/*"), strings.EqualFold(name, "application/json"):
			wide = true
		}
		named = true
	}
	return wide || !named
}

// classOf returns the class for a client's Accept fields.
func classOf(fields []string) (c class) {
	for name, refused := range mediaRanges(fields) {
		for i, k := range knownTypes {
			if !refused && strings.EqualFold(name, k) {
				c |= 1 << i
			}
		}
	}
	return c
}

// mediaRanges returns an iterator over the media ranges in Accept fields, and whether each is refused by a weight of 0.
// It skips malformed ones.
func mediaRanges(fields []string) func(yield func(name string, refused bool) bool) {
	return func(yield func(string, bool) bool) {
		for _, field := range fields {
			for field != "" {
				var item string
				item, field = cutUnquoted(field, ',')
				name, parameters := cutUnquoted(item, ';')
				if name = strings.TrimSpace(name); !strings.Contains(name, "/") {
					continue
				}
				if !yield(name, hasZeroWeight(parameters)) {
					return
				}
			}
		}
	}
}

// hasZeroWeight reports whether the parameters of a media range include a weight of 0.
func hasZeroWeight(parameters string) bool {
	for parameters != "" {
		var p string
		p, parameters = cutUnquoted(parameters, ';')
		name, value, _ := strings.Cut(p, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		value = strings.TrimSpace(value)
		return strings.HasPrefix(value, "0") && strings.Trim(value, "0.") == ""
	}
	return false
}

// cutUnquoted splits s at the first separator outside of a quoted string.
func cutUnquoted(s string, separator byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case quoted && s[i] == '\\':
			i++
		case !quoted && s[i] == separator:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}
