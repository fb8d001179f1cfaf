// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"pullthrough.registry_cache/docker/registry/internal/schema1"
)

// Media types that image-spec does not name.
const (
	dockerManifest      = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList  = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerSchema1       = schema1.Plain
	dockerSchema1Signed = schema1.Signed
	ociArtifact         = "application/vnd.oci.artifact.manifest.v1+json"
)

// knownTypes are the types of manifests that clients name. Their order is that of the bits of a class.
var knownTypes = [...]string{
	v1.MediaTypeImageIndex, dockerManifestList, v1.MediaTypeImageManifest, dockerManifest, ociArtifact, dockerSchema1Signed, dockerSchema1,
}

// acceptAny is the Accept for a tag, to which the upstream answers with what it has. It does not name the old types, to which
// some upstreams would convert.
var acceptAny = strings.Join(knownTypes[:5], ", ") + ", */*;q=0.1"

// A class is the set of known types that a client accepts, as bits.
type class uint8

// acceptHeader returns the Accept header of a class. The empty class accepts everything.
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

// accepts reports whether the Accept fields of a client include a media type. A client that names no type accepts all types, as
// does a client that accepts any JSON: upstreams do not refuse these.
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

// classOf returns the class of the Accept fields of a client.
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

// mediaRanges returns an iterator over the media ranges of Accept fields, with whether each is refused by a weight of 0. It skips
// what is not a media range.
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

// cutUnquoted cuts s around the first separator that is not in a quoted string.
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
