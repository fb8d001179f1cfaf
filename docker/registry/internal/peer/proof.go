// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// byDigest is used instead of the hash of a body that the requesting replica checks by its digest.
const byDigest = "digest"

// Headers of an answer to a hop that are not sent to clients. The Age header is too coarse to be accumulated.
const (
	ageHeader    = "Registry-Cache-Age" // milliseconds
	staleHeader  = "Registry-Cache-Stale"
	sourceHeader = "Registry-Cache-Source"
)

// ageLimit is the maximum age. Larger values could overflow a Duration.
const ageLimit = 100 * 365 * 24 * time.Hour

// signedAnswer lists the headers of an answer that its proof covers. The requesting replica sees no others.
var signedAnswer = []string{
	"Content-Type", "Content-Length", "Content-Range", "Docker-Content-Digest", "Link", "Oci-Filters-Applied", "Retry-After",
	ageHeader, staleHeader, sourceHeader, refusalHeader, versionsHeader,
}

// SetAge sets the time since the upstream gave the answer to a hop, and whether the answer is stale.
func SetAge(h http.Header, age time.Duration, stale bool) {
	h.Set(ageHeader, strconv.FormatInt(max(0, age.Milliseconds()), 10))
	if stale {
		h.Set(staleHeader, "1")
	}
}

// Age returns the values set by SetAge, or 0 and false if there are none.
func Age(h http.Header) (age time.Duration, stale bool) {
	ms, err := strconv.ParseInt(h.Get(ageHeader), 10, 64)
	if err != nil || ms < 0 || ms > ageLimit.Milliseconds() {
		ms = 0
	}
	return time.Duration(ms) * time.Millisecond, h.Get(staleHeader) == "1"
}

// SetStored marks the answer to a hop as coming from the store.
func SetStored(h http.Header) { h.Set(sourceHeader, onlyStore) }

// ClearStored removes the mark set by SetStored.
func ClearStored(h http.Header) { h.Del(sourceHeader) }

// Stored reports whether the answer has the mark set by SetStored.
func Stored(h http.Header) bool { return h.Get(sourceHeader) == onlyStore }

// A proof is the parsed header of an answer between replicas.
type proof struct {
	version string // version of the request
	body    string // sha256 in hex, or byDigest
	mac     string
}

// String returns the value of the header.
func (p proof) String() string { return "v=" + p.version + ", body=" + p.body + ", mac=" + p.mac }

// parseProof parses a proof header.
func parseProof(header string) (proof, bool) {
	given, ok := parseFields(header)
	p := proof{given["v"], given["body"], given["mac"]}
	if !ok || len(given) != 3 || !isVersion(p.version) || !isHex(p.mac, sumLimit) || p.body != byDigest && !isHex(p.body, sumLimit) {
		return proof{}, false
	}
	return p, true
}

// signedParts returns the parts of an answer that its MAC covers. They include the name of the answering replica: all
// replicas have the same secret, and one may have the former address of another.
func (p proof) signedParts(by, nonce string, status int, header http.Header) []string {
	parts := []string{"registry-cache-proof", p.version, by, nonce, strconv.Itoa(status), p.body}
	return appendHeader(parts, header, signedAnswer)
}

// isStream reports whether a body is streamed and checked by its digest.
func isStream(uri string, status int) bool {
	if status != http.StatusOK && status != http.StatusPartialContent {
		return false
	}
	path, _, _ := strings.Cut(uri, "?")
	rest, _, ok := cutLast(path)
	if !ok {
		return false
	}
	_, endpoint, _ := cutLast(rest)
	return endpoint == "blobs"
}

// cutLast splits a path at its last slash.
func cutLast(path string) (before, after string, found bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return path, "", false
	}
	return path[:i], path[i+1:], true
}

// hashHex returns the sha256 of a body in hex.
func hashHex(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}
