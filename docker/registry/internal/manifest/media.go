// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"encoding/json"
	"regexp"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// mediaTypePattern matches media types that are valid in a header field.
var mediaTypePattern = regexp.MustCompile(`^[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}$`)

// sniff returns the media type according to the content of a manifest. It is used if there is no Content-Type.
func sniff(body []byte) string {
	var m struct {
		MediaType     string          `json:"mediaType"`
		SchemaVersion int             `json:"schemaVersion"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
		Signatures    json.RawMessage `json:"signatures"`
	}
	if json.Unmarshal(body, &m) != nil {
		return "application/octet-stream"
	}
	switch {
	case mediaTypePattern.MatchString(m.MediaType):
		return m.MediaType
	case m.SchemaVersion == 1 && m.Signatures != nil:
		return dockerSchema1Signed
	case m.SchemaVersion == 1:
		return dockerSchema1
	case m.Manifests != nil:
		return v1.MediaTypeImageIndex
	case m.Config != nil:
		return v1.MediaTypeImageManifest
	}
	return "application/json"
}
