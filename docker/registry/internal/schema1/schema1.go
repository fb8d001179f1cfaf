// SPDX-License-Identifier: GPL-3.0-or-later

// Package schema1 verifies digests of manifests, including Docker schema 1, where the digest covers only the signed
// part.
package schema1

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Media types of schema 1 manifests.
const (
	Plain  = "application/vnd.docker.distribution.manifest.v1+json"
	Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// IsMediaType reports whether a media type, with or without parameters, is that of a schema 1 manifest.
func IsMediaType(mediaType string) bool {
	kind, _, _ := strings.Cut(mediaType, ";")
	kind = strings.TrimSpace(kind)
	return kind == Plain || kind == Signed
}

// HasDigest reports whether a manifest of any media type matches the digest.
func HasDigest(d digest.Digest, mediaType string, content []byte) bool {
	if d.Algorithm().FromBytes(content) == d {
		return true
	}
	if !IsMediaType(mediaType) {
		return false
	}
	payload, err := signedPart(content)
	return err == nil && d.Algorithm().FromBytes(payload) == d
}

// signedPart returns the signed part of a schema 1 manifest: the beginning of its content, followed by the end that is
// in the signature.
func signedPart(content []byte) ([]byte, error) {
	var manifest struct {
		Signatures []struct {
			Protected string `json:"protected"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(content, &manifest); err != nil {
		return nil, err
	}
	if len(manifest.Signatures) == 0 {
		return nil, errors.New("no signature")
	}
	protected, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(manifest.Signatures[0].Protected, "="))
	if err != nil {
		return nil, err
	}
	var format struct {
		Length int    `json:"formatLength"`
		Tail   string `json:"formatTail"`
	}
	if err := json.Unmarshal(protected, &format); err != nil {
		return nil, err
	}
	tail, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(format.Tail, "="))
	if err != nil {
		return nil, err
	}
	if format.Length < 0 || format.Length > len(content) {
		return nil, fmt.Errorf("a signed length of %d in a manifest of %d bytes", format.Length, len(content))
	}
	return append(content[:format.Length:format.Length], tail...), nil
}
