// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/distribution/distribution/v3/manifest/manifestlist"
	"github.com/distribution/distribution/v3/manifest/schema2"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/schema1"
)

// manifestLimit is the maximum size of a manifest, in bytes. Distribution has the same limit.
const manifestLimit = 4 << 20

// acceptedTypes are the types that distribution can parse. It serves a manifest only to clients that accept its type.
var acceptedTypes = []string{v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, schema2.MediaTypeManifest, manifestlist.MediaTypeManifestList}

// acceptFor returns an Accept header that requests any type from the upstream. The client's Accept header is empty or
// includes */*.
func acceptFor(client string) string {
	all := strings.Join(acceptedTypes, ", ")
	if client != "" {
		return all + ", " + client
	}
	return all + ", */*"
}

// rawManifest is a manifest as sent by the upstream.
type rawManifest struct {
	mediaType string
	digest    digest.Digest
	content   []byte
}

// reply returns the manifest as a response to distribution.
func (m *rawManifest) reply(req *http.Request) *http.Response {
	header := http.Header{}
	header.Set("Content-Type", m.mediaType)
	header.Set("Content-Length", strconv.Itoa(len(m.content)))
	header.Set("Docker-Content-Digest", m.digest.String())
	return reply(req, http.StatusOK, header, m.content)
}

// manifestSource is the upstream for one request for a manifest, and keeps the response. It is used by one goroutine,
// since distribution sends one request after the other.
type manifestSource struct {
	u      *Upstream
	ctx    context.Context
	r      route.Request
	accept string

	digest  digest.Digest // digest of the tag, once known
	raw     *rawManifest
	failure *requestError // last failure, or nil
	final   bool          // do not ask the upstream again
	asked   bool
}

// answer answers distribution with at most one HEAD and one GET request to the upstream. It passes a tag to
// distribution only after its manifest has been received. Otherwise distribution would replace the old manifest of the
// tag with one that it cannot get.
func (s *manifestSource) answer(req *http.Request) (*http.Response, error) {
	if s.final {
		return replyError(req, s.failure)
	}
	if s.raw == nil && req.Method == http.MethodHead && s.r.Tag != "" {
		resp, local, err := s.head()
		switch {
		case err != nil:
			return s.failed(req, err)
		case local:
			resp.Request = req
			return resp, nil
		}
	}
	if s.raw == nil {
		if err := s.get(); err != nil {
			return s.failed(req, err)
		}
	}
	return s.raw.reply(req), nil
}

// failed answers distribution with an error from the upstream.
func (s *manifestSource) failed(req *http.Request, err error) (*http.Response, error) {
	s.failure = asRequestError(err)
	// After a failed HEAD, distribution sends a GET, for upstreams without HEAD and to get the error message.
	switch s.failure.status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		s.final = req.Method == http.MethodGet
	default:
		s.final = true
	}
	return replyError(req, s.failure)
}

// head asks the upstream for the digest of a tag. local reports whether the distribution library has stored that
// manifest, so that no further request is needed.
func (s *manifestSource) head() (resp *http.Response, local bool, err error) {
	s.asked = true
	resp, err = s.u.send(s.ctx, s.r, http.MethodHead, s.r.URI(), http.Header{"Accept": {s.accept}})
	if err != nil {
		return nil, false, err
	}
	_ = resp.Body.Close()
	s.failure = nil
	d, err := digest.Parse(resp.Header.Get("Docker-Content-Digest"))
	if err != nil || resp.Header.Get("Content-Type") == "" || resp.ContentLength < 0 {
		return nil, false, nil // some upstreams send all headers only in response to a GET
	}
	s.digest = d
	if local = s.u.hasManifest(s.ctx, s.r.Repository, d); local {
		err = s.u.reserve(s.ctx, resp.ContentLength) // for the manifest that distribution reads next
	}
	return resp, local, err
}

// get fetches the manifest, by digest if it is known, so that a tag that moves in the meantime does not matter.
func (s *manifestSource) get() error {
	s.asked = true
	r := s.r
	if s.digest != "" {
		r.Tag, r.Digest = "", s.digest
	}
	resp, err := s.u.send(s.ctx, r, http.MethodGet, r.URI(), http.Header{"Accept": {s.accept}})
	if err != nil {
		return err
	}
	content, err := s.u.readAll(s.ctx, resp, manifestLimit)
	if err != nil {
		return err
	}
	want := r.Digest
	if want == "" {
		want, _ = digest.Parse(resp.Header.Get("Docker-Content-Digest"))
	}
	mediaType := resp.Header.Get("Content-Type")
	switch {
	case want == "" && isWebPage(mediaType):
		return webPageError()
	case want == "":
		want = digest.FromBytes(content)
	case !schema1.HasDigest(want, mediaType, content):
		s.u.count.refused.WithLabelValues("manifest", "digest").Inc()
		return &requestError{invalid: true, message: "the manifest does not match the digest " + want.String()}
	}
	s.failure, s.raw = nil, &rawManifest{mediaType: mediaType, digest: want, content: content}
	return nil
}

// hasManifest reports whether distribution has stored a manifest in a repository.
func (u *Upstream) hasManifest(ctx context.Context, repository string, d digest.Digest) bool {
	_, err := u.store.Stat(ctx, "/docker/registry/v2/repositories/"+repository+"/_manifests/revisions/"+
		d.Algorithm().String()+"/"+d.Encoded()+"/link")
	return err == nil
}
