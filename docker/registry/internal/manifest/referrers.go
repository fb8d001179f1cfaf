// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

// filterName is the referrers filter defined in the specification.
const filterName = "artifactType"

// fallbackTag returns the tag for the referrers of a digest in registries without the referrers endpoint. It has at
// most 32 characters of the algorithm and 64 of the value.
func fallbackTag(d digest.Digest) string {
	algorithm, value := d.Algorithm().String(), d.Encoded()
	return algorithm[:min(32, len(algorithm))] + "-" + value[:min(64, len(value))]
}

// index is a list of referrers. Descriptors are kept as the upstream sent them.
type index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []json.RawMessage `json:"manifests"`
	Annotations   json.RawMessage   `json:"annotations,omitempty"`
}

// parseIndex parses an index. ok is false if the body is not an index.
func parseIndex(body []byte) (i index, ok bool) {
	if json.Unmarshal(body, &i) != nil || i.Manifests == nil {
		return index{}, false
	}
	i.SchemaVersion, i.MediaType = 2, v1.MediaTypeImageIndex
	return i, true
}

// filter returns the index with only the descriptors of some artifact types.
func (i index) filter(types []string) index {
	kept := []json.RawMessage{}
	for _, raw := range i.Manifests {
		var d struct {
			ArtifactType string `json:"artifactType"`
		}
		if json.Unmarshal(raw, &d) == nil && slices.Contains(types, d.ArtifactType) {
			kept = append(kept, raw)
		}
	}
	i.Manifests = kept
	return i
}

// newReferrers returns an answer with an index. It applies the request's filter unless the upstream has already done
// so. It returns nil if the body is not an index.
func newReferrers(r route.Request, body []byte, filtered string) *Answer {
	i, ok := parseIndex(body)
	if !ok {
		return nil
	}
	if types := artifactTypes(r); len(types) > 0 && filtered == "" {
		raw, err := json.Marshal(i.filter(types))
		if err != nil {
			return nil
		}
		body, filtered = raw, filterName
	}
	return &Answer{Status: http.StatusOK, Body: body, mediaType: v1.MediaTypeImageIndex, filtered: filtered}
}

// artifactTypes returns the artifact types by which a request filters.
func artifactTypes(r route.Request) []string {
	values, err := url.ParseQuery(r.Query)
	if err != nil {
		return nil
	}
	return values[filterName]
}

// fallback returns the referrers from the fallback tag, for an upstream without the referrers endpoint.
func (h *Handler) fallback(ctx context.Context, u *upstream, r route.Request) *Answer {
	tag, result := h.answer(ctx, u, question{own: true, Request: route.Request{
		Kind: route.Manifest, Upstream: r.Upstream, Repository: r.Repository, Tag: fallbackTag(r.Digest),
	}}, h.opts.FetchTimeout)
	switch {
	case result == ClientGone:
		return failedAnswer(context.Cause(ctx))
	case tag.Status == http.StatusNotFound:
		// The specification requires this response for a digest without referrers.
		return newReferrers(r, []byte(`{"schemaVersion":2,"mediaType":"`+v1.MediaTypeImageIndex+`","manifests":[]}`), "")
	case !tag.isOK():
		return tag
	}
	a := newReferrers(r, tag.Body, "")
	if a == nil { // the tag is an image, not an index
		a = newReferrers(r, []byte(`{"manifests":[]}`), "")
	}
	a.Stale, a.Age, a.lease = tag.Stale, tag.Age, tag.lease // the answer shares most bytes of the tag's manifest, or is smaller
	return a
}
