// SPDX-License-Identifier: GPL-3.0-or-later

// Package verify is a repository middleware that lets no client receive a whole body of wrong bytes, and no list of tags
// that is not the upstream's.
package verify

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/api/errcode"
	v2 "github.com/distribution/distribution/v3/registry/api/v2"
	repositorymiddleware "github.com/distribution/distribution/v3/registry/middleware/repository"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"pullthrough.registry_cache/docker/registry/internal/bounded"
	"pullthrough.registry_cache/docker/registry/internal/status"
)

// hold is how many of the last bytes wait until the digest over all of them is known.
const hold = 512

// ErrorCodeUpstream says that the upstream's answer was wrong or broke off before anything was passed on.
var ErrorCodeUpstream = errcode.Register("pullthrough.registry_cache", errcode.ErrorDescriptor{
	Value:          "UPSTREAM_INVALID",
	Message:        "the upstream's answer is not what the digest names",
	HTTPStatusCode: http.StatusBadGateway,
})

func init() {
	if err := repositorymiddleware.Register("verify", wrap); err != nil {
		panic(err)
	}
}

func wrap(_ context.Context, r distribution.Repository, options map[string]any) (distribution.Repository, error) {
	for name := range options {
		return nil, fmt.Errorf("verify: unknown option %q", name)
	}
	return repository{r}, nil
}

type repository struct{ distribution.Repository }

func (r repository) Blobs(ctx context.Context) distribution.BlobStore {
	return &blobs{BlobStore: r.Repository.Blobs(ctx)}
}

func (r repository) Manifests(
	ctx context.Context, options ...distribution.ManifestServiceOption,
) (distribution.ManifestService, error) {
	m, err := r.Repository.Manifests(ctx, options...)
	return manifests{m}, err
}

func (r repository) Tags(ctx context.Context) distribution.TagService {
	return tags{r.Repository.Tags(ctx)}
}

type manifests struct{ distribution.ManifestService }

// Get returns a manifest only if its bytes have the digest.
func (m manifests) Get(
	ctx context.Context, d digest.Digest, options ...distribution.ManifestServiceOption,
) (distribution.Manifest, error) {
	// With a tag the upstream is asked by tag, which may have moved; the second time it is asked by digest.
	for _, options := range [][]distribution.ManifestServiceOption{options, nil} {
		manifest, err := m.ManifestService.Get(ctx, d, options...)
		// The registry's own client refuses one that was asked for by digest, and says so by these words alone.
		if err != nil && !strings.Contains(err.Error(), "manifest digest mismatch") {
			unreached(ctx, err)
			return nil, err
		}
		if err == nil {
			_, payload, err := manifest.Payload()
			if err != nil {
				return nil, err
			}
			if d.Algorithm().FromBytes(payload) == d {
				return manifest, nil
			}
		}
		logrus.WithField("digest", d).Warn("verify: a manifest of another digest")
	}
	refused.WithLabelValues("manifest", "digest").Inc()
	return nil, ErrorCodeUpstream.WithDetail(d)
}

// unreached tells apart an upstream that could not be asked from a store that does not work.
func unreached(ctx context.Context, err error) {
	var failed *url.Error
	if errors.As(err, &failed) {
		status.Unreached(ctx, failed)
	}
}

type tags struct{ distribution.TagService }

// Get finds a tag that the upstream does not answer for, if this replica has had it.
func (t tags) Get(ctx context.Context, tag string) (v1.Descriptor, error) {
	desc, err := t.TagService.Get(ctx, tag)
	status.Unreached(ctx, errNotAsked)
	return desc, err
}

// List is the upstream's or none: what this replica has had of a repository is no list of its tags.
func (t tags) List(ctx context.Context, limit int, last string) ([]string, error) {
	list, err := t.TagService.List(ctx, limit, last)
	switch {
	case status.Failed(ctx):
		status.Unreached(ctx, errNotAsked)
		return nil, errcode.ErrorCodeUnavailable
	case err == nil && len(list) == 0:
		return list, io.EOF // the registry takes the last one for the next page's start
	}
	return list, err
}

var errNotAsked = errors.New("the upstream could not be asked")

type blobs struct {
	distribution.BlobStore
	found v1.Descriptor
}

// Stat remembers its answer: the handler asks just before it has the blob served.
func (b *blobs) Stat(ctx context.Context, d digest.Digest) (v1.Descriptor, error) {
	desc, err := b.BlobStore.Stat(ctx, d)
	if err != nil {
		unreached(ctx, err)
	}
	b.found = desc
	return desc, err
}

// ServeBlob sends a blob whole only if its bytes have the digest. A HEAD is answered without a fetch.
func (b *blobs) ServeBlob(ctx context.Context, w http.ResponseWriter, r *http.Request, d digest.Digest) error {
	if b.found.Digest != d {
		if _, err := b.Stat(ctx, d); err != nil {
			return err
		}
	}
	if r.Method == http.MethodHead {
		setHeaders(w.Header(), d)
		w.Header().Set("Content-Type", b.found.MediaType)
		http.ServeContent(w, r, "", time.Time{}, &unread{size: b.found.Size})
		return nil
	}
	ctx = bounded.WithSize(ctx, b.found.Size)
	log := logrus.WithField("digest", d)
	headers := w.Header().Clone()
	var err error
	for range 2 {
		v := &body{ResponseWriter: w, digest: d, hash: d.Algorithm().Hash()}
		err = b.BlobStore.ServeBlob(ctx, v, r, d)
		switch {
		case v.partial:
			return err
		case v.right():
			if err != nil {
				log.WithError(err).Info("verify: served, not kept")
			}
			if err := v.finish(); err != nil {
				log.WithError(err).Debug("verify: the client left")
			}
			return nil // the client has every byte: nothing may follow
		case v.sent:
			if v.failed == nil {
				log.WithError(err).Error("verify: wrong bytes, connection cut")
				v.refuse(b.found.Size)
			}
			panic(http.ErrAbortHandler)
		case ctx.Err() != nil:
			return err
		}
		reset(w.Header(), headers)
		if v.size > 0 {
			v.refuse(b.found.Size)
		}
		if err != nil {
			break
		}
		// No error: a local copy, wrong or dropped since the look-up, and gone by now.
	}
	log.WithError(err).Error("verify: nothing right to send")
	if errors.Is(err, distribution.ErrBlobUnknown) {
		return errcode.ServeJSON(w, v2.ErrorCodeBlobUnknown.WithDetail(d))
	}
	return errcode.ServeJSON(w, ErrorCodeUpstream.WithDetail(d))
}

// setHeaders gives a blob the same headers whether it is local or not.
func setHeaders(h http.Header, d digest.Digest) {
	h.Set("Docker-Content-Digest", d.String())
	h.Set("ETag", `"`+d.String()+`"`)
	h.Set("Cache-Control", "max-age=31536000")
}

func reset(h, to http.Header) {
	clear(h)
	for name, values := range to {
		h[name] = slices.Clone(values)
	}
}

// unread is content of a known size for an answer without a body.
type unread struct {
	io.Reader
	size int64
}

func (u *unread) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		offset += u.size
	}
	return offset, nil
}

// body passes on what it is given as it comes, but for the last bytes.
type body struct {
	http.ResponseWriter
	digest  digest.Digest
	hash    hash.Hash
	size    int64
	held    []byte
	sent    bool  // something of a whole body went out
	partial bool  // not a whole body: 206, 304, 416
	failed  error // the client left
}

// WriteHeader keeps a 200 back: the body that fits in what is held may still become an error.
func (b *body) WriteHeader(status int) {
	if status != http.StatusOK {
		b.partial = true
		b.ResponseWriter.WriteHeader(status)
	}
}

func (b *body) Write(p []byte) (int, error) {
	if b.partial {
		return b.ResponseWriter.Write(p)
	}
	b.hash.Write(p)
	b.size += int64(len(p))
	b.held = append(b.held, p...)
	if n := len(b.held) - hold; n > 0 {
		if err := b.send(b.held[:n]); err != nil {
			return 0, err
		}
		b.held = append(b.held[:0], b.held[n:]...)
	}
	return len(p), nil
}

// send passes bytes on at once: a slow upstream's bytes do not wait in a buffer.
func (b *body) send(p []byte) error {
	if !b.sent {
		setHeaders(b.Header(), b.digest)
		b.sent = true
	}
	if _, b.failed = b.ResponseWriter.Write(p); b.failed == nil {
		b.failed = http.NewResponseController(b.ResponseWriter).Flush()
	}
	return b.failed
}

func (b *body) right() bool {
	return b.failed == nil && digest.NewDigest(b.digest.Algorithm(), b.hash) == b.digest
}

// refuse counts a body that was not what its digest names: whole and wrong, or cut.
func (b *body) refuse(size int64) {
	reason := "cut"
	if b.size == size {
		reason = "digest"
	}
	refused.WithLabelValues("blob", reason).Inc()
}

func (b *body) finish() error { return b.send(b.held) }
