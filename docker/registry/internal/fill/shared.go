// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

// dataPath returns the path where distribution stores a blob's data for all repositories. It is known only for sha256:
// blobs with other algorithms are stored under their sha256, which is found only in the links of repositories.
func dataPath(d digest.Digest) (path string, ok bool) {
	if d.Algorithm() != digest.SHA256 {
		return "", false
	}
	hex := d.Encoded()
	return "/docker/registry/v2/blobs/sha256/" + hex[:2] + "/" + hex + "/data", true
}

// lookup returns the size of a blob, and whether the store may serve it for a request.
func (h *Handler) lookup(q route.Request) (size int64, ok bool) {
	if size, ok = h.opts.Store.Has(q.Repository, q.Digest); ok || !h.opts.Share {
		return size, ok
	}
	path, ok := dataPath(q.Digest)
	if !ok {
		return 0, false
	}
	info, err := h.opts.Store.Stat(context.Background(), path)
	if err != nil {
		return 0, false
	}
	return info.Size(), true
}

// open opens a blob that the store may serve for a request. The error is fs.ErrNotExist if there is none.
func (h *Handler) open(ctx context.Context, q route.Request) (*store.Blob, error) {
	b, err := h.opts.Store.Open(ctx, q.Repository, q.Digest)
	if !h.opts.Share || !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	path, ok := dataPath(q.Digest)
	if !ok {
		return nil, fs.ErrNotExist
	}
	r, err := h.opts.Store.Reader(ctx, path, 0)
	var none driver.PathNotFoundError
	switch {
	case errors.As(err, &none):
		return nil, fs.ErrNotExist
	case err != nil:
		return nil, err
	}
	b, ok = r.(*store.Blob)
	if !ok {
		_ = r.Close()
		return nil, fmt.Errorf("the store opened %s as a %T", path, r)
	}
	return b, nil
}
