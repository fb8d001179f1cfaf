// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/schema1"
)

// A Store stores small files. It is a subset of distribution's storage driver, and implemented by *store.Upstream.
type Store interface {
	GetContent(ctx context.Context, path string) ([]byte, error)
	PutContent(ctx context.Context, path string, content []byte) error
	// Stat marks the file as used.
	Stat(ctx context.Context, path string) (driver.FileInfo, error)
}

// An archive stores manifests, and the last known state of tags and referrers, in distribution's layout:
//
//	blobs/sha256/<xx>/<hex>/data                                   the manifest
//	repositories/NAME/_manifests/revisions/<algorithm>/<hex>/link  membership in the repository
//	repositories/NAME/_manifests/tags/TAG/current/link             last known digest of the tag
//
// and, for what distribution does not store:
//
//	repositories/NAME/_manifests/revisions/<algorithm>/<hex>/type  media type, if the content does not have it
//	repositories/NAME/_referrers/<algorithm>/<hex>/<query's hash>  referrers: a line of JSON, then the index
//
// Its methods must not be called without a store.
type archive struct {
	store    Store
	inFlight *byteSemaphore
	log      *slog.Logger
	// saving prevents an older answer from being written after a newer one.
	saving sync.Mutex
	// loads prevents concurrent callers from reading the same content into memory several times.
	loads singleflight.Group
}

const rootPath = "/docker/registry/v2/"

func dataPath(d digest.Digest) string {
	return rootPath + "blobs/" + d.Algorithm().String() + "/" + d.Encoded()[:2] + "/" + d.Encoded() + "/data"
}

func revisionPath(repository string, d digest.Digest, name string) string {
	return rootPath + "repositories/" + repository + "/_manifests/revisions/" + d.Algorithm().String() + "/" + d.Encoded() + "/" + name
}

func tagPath(repository, tag string) string {
	return rootPath + "repositories/" + repository + "/_manifests/tags/" + tag + "/current/link"
}

func referrersPath(r route.Request) string {
	query := sha256.Sum256([]byte(r.Query))
	return rootPath + "repositories/" + r.Repository + "/_referrers/" + r.Digest.Algorithm().String() + "/" + r.Digest.Encoded() +
		"/" + hex.EncodeToString(query[:])
}

// read returns the stored answer to a question, or nil. For a tag, d is the digest if it is known. The caller holds the
// answer's lease. The only possible error is errNoRoom.
func (a *archive) read(ctx context.Context, q question, d digest.Digest) (*Answer, error) {
	if q.Kind == route.Referrers {
		return a.referrers(ctx, q.Request)
	}
	if d == "" {
		d = a.tag(ctx, q.Repository, q.Tag)
	}
	if d == "" {
		return nil, nil
	}
	return a.manifest(ctx, q.Repository, d)
}

// readFile returns the content of a file, or nil if there is none, and the number of bytes acquired for it. Large
// content needs room for a copy, too.
func (a *archive) readFile(ctx context.Context, path string) (content []byte, cost int64, err error) {
	info, err := a.store.Stat(ctx, path)
	if err != nil {
		return nil, 0, nil
	}
	cost = info.Size()
	if cost > smallAnswer {
		cost = a.inFlight.cost(2 * cost)
	}
	if !a.inFlight.acquire(ctx, cost) {
		return nil, 0, errNoRoom
	}
	content, err = a.store.GetContent(ctx, path)
	if err != nil {
		a.inFlight.release(cost)
		return nil, 0, nil
	}
	return content, cost, nil
}

// link returns the digest in a link, or "" if there is none.
func (a *archive) link(ctx context.Context, path string) digest.Digest {
	content, err := a.store.GetContent(ctx, path)
	d := digest.Digest(bytes.TrimSpace(content))
	if err != nil || d.Validate() != nil {
		return ""
	}
	return d
}

// tag returns the last known digest of a tag, or "" if there is none.
func (a *archive) tag(ctx context.Context, repository, tag string) digest.Digest {
	return a.link(ctx, tagPath(repository, tag))
}

// manifest returns a manifest of a repository, or nil. Its bytes match the digest.
func (a *archive) manifest(ctx context.Context, repository string, d digest.Digest) (*Answer, error) {
	at := a.link(ctx, revisionPath(repository, d, "link"))
	if at == "" {
		return nil, nil
	}
	body, cost, err := a.readFile(ctx, dataPath(at))
	if body == nil {
		return nil, err
	}
	kind, err := a.store.GetContent(ctx, revisionPath(repository, d, "type"))
	if err != nil || len(kind) == 0 {
		kind = []byte(sniff(body))
	}
	if !schema1.HasDigest(d, string(kind), body) {
		a.inFlight.release(cost)
		return nil, nil
	}
	m := &Answer{Status: http.StatusOK, Body: body, mediaType: string(kind), digest: d}
	m.lease = a.inFlight.newLease(len(body), cost)
	return m, nil
}

// storedDigest returns the digest under which a manifest is stored, which is the sha256 of all its bytes.
func storedDigest(m *Answer) digest.Digest {
	if m.digest.Algorithm() != digest.Canonical || schema1.IsMediaType(m.mediaType) {
		return digest.FromBytes(m.Body)
	}
	return m.digest
}

// saveManifest saves a manifest unless it is already saved, and reports whether it is saved now. A full store evicts
// other content instead of failing. Content that cannot be stored will be fetched again.
func (a *archive) saveManifest(ctx context.Context, repository string, m *Answer) bool {
	at := storedDigest(m)
	if _, err := a.store.Stat(ctx, dataPath(at)); err != nil && !a.put(ctx, dataPath(at), m.Body) {
		return false
	}
	if m.mediaType != sniff(m.Body) && !a.put(ctx, revisionPath(repository, m.digest, "type"), []byte(m.mediaType)) {
		return false
	}
	return a.put(ctx, revisionPath(repository, m.digest, "link"), []byte(at))
}

// saveTag saves the manifest of a tag. The link contains the digest under which the data is stored.
func (a *archive) saveTag(ctx context.Context, repository, tag string, m *Answer) bool {
	if !a.saveManifest(ctx, repository, m) {
		return false
	}
	at := storedDigest(m)
	if at != m.digest {
		a.put(ctx, revisionPath(repository, at, "link"), []byte(at))
	}
	return a.put(ctx, tagPath(repository, tag), []byte(at))
}

// put writes a file, and reports whether that succeeded.
func (a *archive) put(ctx context.Context, path string, content []byte) bool {
	if err := a.store.PutContent(ctx, path, content); err != nil {
		a.log.Warn("Cannot store a manifest", "path", path, "error", err)
		return false
	}
	return true
}

// touch marks a manifest as used, and reports whether it is still stored.
func (a *archive) touch(ctx context.Context, m *Answer) bool {
	_, err := a.store.Stat(ctx, dataPath(storedDigest(m)))
	var gone driver.PathNotFoundError
	return !errors.As(err, &gone)
}

// referrersHeader is the first line of a file with referrers. It has the digest of the index, which is not part of its
// path.
type referrersHeader struct {
	Sum      digest.Digest `json:"sum"`
	Next     string        `json:"next,omitempty"`
	Filtered string        `json:"filtered,omitempty"`
}

// referrers returns the stored referrers, or nil.
func (a *archive) referrers(ctx context.Context, r route.Request) (*Answer, error) {
	content, cost, err := a.readFile(ctx, referrersPath(r))
	if content == nil {
		return nil, err
	}
	line, body, _ := bytes.Cut(content, []byte("\n"))
	var f referrersHeader
	var m *Answer
	if json.Unmarshal(line, &f) == nil && f.Sum == digest.FromBytes(body) {
		m = newReferrers(r, body, f.Filtered)
	}
	if m == nil {
		a.inFlight.release(cost)
		return nil, nil
	}
	m.next = f.Next
	m.lease = a.inFlight.newLease(len(m.Body), cost)
	return m, nil
}

// saveReferrers saves referrers. An empty list is saved only to replace another one: most digests have an empty list,
// anyone may ask for it, and each file takes 8 KiB.
func (a *archive) saveReferrers(ctx context.Context, r route.Request, m *Answer) bool {
	if i, ok := parseIndex(m.Body); ok && len(i.Manifests) == 0 && m.next == "" {
		if _, err := a.store.Stat(ctx, referrersPath(r)); err != nil {
			return true
		}
	}
	line, err := json.Marshal(referrersHeader{digest.FromBytes(m.Body), m.next, m.filtered})
	if err != nil {
		return false
	}
	return a.put(ctx, referrersPath(r), append(append(line, '\n'), m.Body...))
}
