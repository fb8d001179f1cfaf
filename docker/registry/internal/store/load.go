// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	blobsDir = "/docker/registry/v2/blobs/"
	reposDir = "/docker/registry/v2/repositories/"
)

// content describes a file according to its path and, for a link, its content.
type content struct {
	key  blobKey // blob to which the file belongs; empty if there is none
	data bool    // the file is the data of the blob
}

// splitPath splits a path below the store's root into an upstream and a path of distribution.
func splitPath(p string) (upstream, rest string) {
	p, ok := strings.CutPrefix(p, upstreamPath+"/")
	if !ok {
		return "", ""
	}
	upstream, rest, _ = strings.Cut(p, "/")
	return upstream, "/" + rest
}

// dataDigest returns the digest in the path of data. It returns false for other paths.
func dataDigest(rest string) (digest.Digest, bool) {
	name, ok := strings.CutPrefix(rest, blobsDir)
	if !ok {
		return "", false
	}
	parts := strings.Split(name, "/")
	if len(parts) != 4 || parts[3] != "data" {
		return "", false
	}
	d, err := digest.Parse(parts[0] + ":" + parts[2])
	if err != nil || parts[2][:2] != parts[1] {
		return "", false
	}
	return d, true
}

// isLink reports whether a path of distribution is a link.
func isLink(rest string) bool {
	return strings.HasPrefix(rest, reposDir) && path.Base(rest) == "link"
}

// linkDigest returns the digest in a link's path. The path of a tag's link has none, and that of an alias is not the
// digest in its content.
func linkDigest(rest string) digest.Digest {
	parts := strings.Split(rest, "/")
	n := len(parts)
	d, err := digest.Parse(parts[n-3] + ":" + parts[n-2])
	if err != nil {
		return ""
	}
	return d
}

// contentOf returns the blob to which a file belongs: for data according to its path, and for a link according to its
// content.
func contentOf(p string, says []byte) content {
	upstream, rest := splitPath(p)
	if upstream == "" {
		return content{}
	}
	if d, ok := dataDigest(rest); ok {
		return content{blobKey{upstream: upstream, digest: d}, true}
	}
	if isLink(rest) {
		if d, err := digest.Parse(string(says)); err == nil {
			return content{blobKey{upstream: upstream, digest: d}, false}
		}
	}
	return content{blobKey{upstream: upstream, path: rest}, true}
}

// dataPath returns distribution's path of a blob's data.
func dataPath(d digest.Digest) string {
	return blobsDir + string(d.Algorithm()) + "/" + d.Encoded()[:2] + "/" + d.Encoded() + "/data"
}

// isEmpty reports whether a digest is that of empty content.
func isEmpty(d digest.Digest) bool { return d == d.Algorithm().FromBytes(nil) }

// load builds the index from the files of an earlier process, and removes unfinished files. It reads names and sizes,
// and the content of only the links of tags and aliases.
func (s *Store) load() error {
	if err := os.RemoveAll(s.diskPath(tmpPath)); err != nil {
		return err
	}
	for _, p := range []string{tmpPath, upstreamPath} {
		if err := os.Mkdir(s.diskPath(p), 0o770); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	used := map[*blob]time.Time{}
	var dirs []*node
	foreign := int64(0)
	err := filepath.WalkDir(s.opts.Path, func(name string, e fs.DirEntry, err error) error {
		p := "/"
		if rel, err := filepath.Rel(s.opts.Path, name); err == nil && rel != "." {
			p += rel
		}
		upstream, _ := splitPath(p)
		if errors.Is(err, fs.ErrPermission) && p != "/" && p != upstreamPath && upstream == "" {
			return fs.SkipDir // lost+found
		}
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		if upstream != "" && !e.IsDir() && !s.isSound(p, fi) {
			return os.Remove(name)
		}
		n := &node{path: p, dir: e.IsDir(), charge: charge(fi)}
		s.used += n.charge
		s.nodes[p] = n
		if parent := s.nodes[path.Dir(p)]; parent != n && parent != nil {
			parent.children++
		}
		switch {
		case n.dir:
			n.fixed = upstream == "" || path.Dir(p) == upstreamPath
			dirs = append(dirs, n)
		case upstream != "":
			c := contentOf(p, s.linkContent(p))
			s.attachLocked(n, c)
			if c.data {
				n.blob.size = fi.Size()
				used[n.blob] = usedAt(fi)
			}
		case p != formatPath && p != lockPath:
			foreign += n.charge
		}
		return nil
	})
	if err != nil {
		return err
	}
	if foreign > 0 {
		s.log.Warn("The store's directory has other files, which take room", "path", s.opts.Path, "bytes", foreign)
	}
	s.peak = s.used
	s.dropDangling()
	s.dropEmpty(dirs)
	s.orderByUse(used)
	s.outlived = len(s.blobs) > 0
	return nil
}

// isSound reports whether the size and type of a file are valid for its path. A crash may leave files that are not.
func (s *Store) isSound(p string, fi fs.FileInfo) bool {
	_, rest := splitPath(p)
	if !fi.Mode().IsRegular() || isUpload(p) {
		return false
	}
	if d, ok := dataDigest(rest); ok {
		return fi.Size() > 0 || isEmpty(d)
	}
	if isLink(rest) {
		return contentOf(p, s.linkContent(p)).key.digest != ""
	}
	return true
}

// linkContent returns the content of a link. For most links, it is in their path.
func (s *Store) linkContent(p string) []byte {
	_, rest := splitPath(p)
	if !isLink(rest) {
		return nil
	}
	if d := linkDigest(rest); d != "" && d.Algorithm() == digest.Canonical {
		return []byte(d)
	}
	says, _ := readRegular(s.diskPath(p))
	return says
}

// dropDangling removes links without data.
func (s *Store) dropDangling() {
	for _, b := range s.blobs {
		if b.data == nil {
			s.drop(b, false)
		}
	}
}

// dropEmpty removes directories that an earlier process has left empty, deepest first.
func (s *Store) dropEmpty(dirs []*node) {
	s.tree.Lock()
	defer s.tree.Unlock()
	for _, n := range slices.Backward(dirs) {
		if !n.fixed && !n.unlinked && n.children == 0 && os.Remove(s.diskPath(n.path)) == nil {
			s.removeNode(n)
		}
	}
}
