// SPDX-License-Identifier: GPL-3.0-or-later

// Package route parses a client's URL into a request of the OCI distribution specification (1.1) to one upstream.
//
// A parsed request has a canonical path, and equivalent requests have the same key. Requests that are ambiguous or
// outside of the specification are refused, so that no other package has to inspect paths.
package route

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/digests"
)

const (
	// queryLimit is the maximum length of a query, in bytes.
	queryLimit = 2048
	// queryRoom is the part of queryLimit that is reserved for "ns" and for the parameters that replicas add to a
	// canonical query.
	queryRoom = 512
)

// Kind is the kind of object that a request asks for.
type Kind int

// Kinds of requests. Unknown is the zero value; Parse returns it only with an error.
const (
	Unknown   Kind = iota
	Ping           // /v2/
	Manifest       // /v2/NAME/manifests/TAG or DIGEST
	Blob           // /v2/NAME/blobs/DIGEST
	Tags           // /v2/NAME/tags/list
	Referrers      // /v2/NAME/referrers/DIGEST
	Catalog        // /v2/_catalog
)

// String returns the kind's name in logs and metrics.
func (k Kind) String() string {
	names := [...]string{"unknown", "ping", "manifest", "blob", "tags", "referrers", "catalog"}
	if k < 0 || int(k) >= len(names) {
		k = Unknown
	}
	return names[k]
}

// A Request is a parsed request. Two requests that are equal (==) ask for the same object.
type Request struct {
	Kind       Kind
	Upstream   string        // host of a configured upstream
	Repository string        // empty for Ping and Catalog
	Digest     digest.Digest // of Blob and Referrers, and of a Manifest unless Tag is set
	Tag        string        // of a Manifest unless Digest is set
	Query      string        // of Tags and Referrers, sorted and without "ns"
}

// Path returns the canonical path.
func (r Request) Path() string {
	switch r.Kind {
	case Ping:
		return "/v2/"
	case Catalog:
		return "/v2/_catalog"
	case Tags:
		return "/v2/" + r.Repository + "/tags/list"
	case Manifest:
		return "/v2/" + r.Repository + "/manifests/" + r.Reference()
	case Blob:
		return "/v2/" + r.Repository + "/blobs/" + r.Digest.String()
	case Referrers:
		return "/v2/" + r.Repository + "/referrers/" + r.Digest.String()
	}
	return ""
}

// URI returns the canonical path and query for an upstream.
func (r Request) URI() string {
	if r.Query == "" {
		return r.Path()
	}
	return r.Path() + "?" + r.Query
}

// Reference returns the tag or, if there is none, the digest.
func (r Request) Reference() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// Key returns a key that is unique among the requests to all upstreams.
func (r Request) Key() string { return r.Upstream + r.URI() } // unambiguous: a host has no slash, and a URI begins with one

// A StatusError is an error response to a client.
type StatusError struct {
	Status  int    // HTTP status
	Code    string // error code of the specification
	Message string
}

// Error returns the code and the message.
func (e *StatusError) Error() string { return e.Code + ": " + e.Message }

// refuse returns a zero Request and a StatusError.
func refuse(status int, code, message string) (Request, *StatusError) {
	return Request{}, &StatusError{Status: status, Code: code, Message: message}
}

// A Table parses requests for a set of upstreams.
type Table struct {
	hosts map[string]bool
	first string
}

// New returns a table of upstream hosts. Requests without "ns" go to the first one.
func New(first string, others ...string) *Table {
	t := &Table{hosts: map[string]bool{first: true}, first: first}
	for _, host := range others {
		t.hosts[host] = true
	}
	return t
}

// Parse returns the request for a URL, or an error for the client.
func (t *Table) Parse(u *url.URL) (Request, *StatusError) {
	values, refusal := parseQuery(u.RawQuery)
	if refusal != nil {
		return Request{}, refusal
	}
	host, refusal := t.upstream(values)
	if refusal != nil {
		return Request{}, refusal
	}
	path, refusal := unescapedPath(u)
	if refusal != nil {
		return Request{}, refusal
	}
	r, refusal := parse(path)
	if refusal != nil {
		return Request{}, refusal
	}
	r.Upstream = host
	if r.Kind == Tags || r.Kind == Referrers {
		r.Query, refusal = canonicalQuery(values)
		if refusal != nil {
			return Request{}, refusal
		}
	}
	return r, nil
}

// parseQuery parses a query. It refuses a query with any malformed part, since that part might be "ns".
func parseQuery(raw string) (url.Values, *StatusError) {
	if raw == "" {
		return nil, nil
	}
	values, err := url.ParseQuery(raw)
	if err != nil || len(raw) > queryLimit {
		return nil, &StatusError{http.StatusBadRequest, "UNSUPPORTED", "the query is malformed or too long"}
	}
	return values, nil
}

// upstream returns the host that "ns" names, or the first host if there is no "ns". A registry that is not configured
// is a 404, after which containerd tries its next host.
func (t *Table) upstream(values url.Values) (string, *StatusError) {
	names, given := values["ns"]
	if !given {
		return t.first, nil
	}
	if len(names) == 1 {
		if host := strings.ToLower(names[0]); t.hosts[host] {
			return host, nil
		}
	}
	return "", &StatusError{http.StatusNotFound, "NAME_UNKNOWN", "this cache does not serve the registry that ns names"}
}

// unescapedPath returns the unescaped path. It refuses an escaped slash, which would add a segment.
func unescapedPath(u *url.URL) (string, *StatusError) {
	// net/url sets RawPath only if Path is ambiguous, for example if a slash was escaped.
	if u.RawPath == "" {
		return u.Path, nil
	}
	escaped := u.EscapedPath()
	if !strings.HasPrefix(escaped, "/v2/") {
		return "", unknownEndpoint()
	}
	for segment := range strings.SplitSeq(escaped, "/") {
		plain, err := url.PathUnescape(segment)
		if err != nil || strings.Contains(plain, "/") {
			return "", &StatusError{http.StatusBadRequest, "NAME_INVALID", "the path has an escaped slash or a malformed escape"}
		}
	}
	return u.Path, nil
}

// unknownEndpoint returns the error for an unknown endpoint.
func unknownEndpoint() *StatusError {
	// With NAME_UNKNOWN, clients that ask for referrers would not fall back to the tag.
	return &StatusError{http.StatusNotFound, "UNSUPPORTED", "this cache has no such endpoint"}
}

// parse returns the request for a path. It finds the endpoint in the last two segments, since a repository may have
// components such as "blobs".
func parse(path string) (Request, *StatusError) {
	if path == "/v2" || path == "/v2/" {
		return Request{Kind: Ping}, nil
	}
	path, ok := strings.CutPrefix(path, "/v2/")
	switch {
	case !ok:
		return Request{}, unknownEndpoint()
	case path == "_catalog":
		return Request{Kind: Catalog}, nil
	}
	rest, reference, _ := cutLast(path)
	repository, endpoint, ok := cutLast(rest)
	if !ok {
		return Request{}, unknownEndpoint()
	}
	r := Request{Repository: repository}
	switch {
	case endpoint == "manifests":
		r.Kind = Manifest
	case endpoint == "blobs":
		r.Kind = Blob
	case endpoint == "referrers":
		r.Kind = Referrers
	case endpoint == "tags" && reference == "list":
		r.Kind = Tags
	default:
		return Request{}, unknownEndpoint()
	}
	if !validRepository(r.Repository) {
		return refuse(http.StatusBadRequest, "NAME_INVALID", "the repository's name is malformed or longer than 255 characters")
	}
	switch {
	case r.Kind == Tags:
		return r, nil
	case r.Kind == Manifest && !strings.Contains(reference, ":"):
		if !validTag(reference) {
			// The conformance suite of the specification expects 404 for an invalid tag.
			return refuse(http.StatusNotFound, "MANIFEST_UNKNOWN", "the reference is not a valid tag: at most 128 letters, digits, _, . and -")
		}
		r.Tag = reference
		return r, nil
	}
	r.Digest = digest.Digest(reference)
	if !digests.Valid(r.Digest) {
		return refuse(http.StatusBadRequest, "DIGEST_INVALID", "the digest is not a valid sha256, sha384 or sha512 digest in lower-case hex")
	}
	return r, nil
}

// cutLast splits a path at its last slash.
func cutLast(path string) (before, after string, found bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}

// canonicalQuery returns the canonical query for an upstream. It keeps unknown keys, since an upstream's Link header
// may use them for pagination.
func canonicalQuery(values url.Values) (string, *StatusError) {
	if len(values) == 0 {
		return "", nil
	}
	if n, given := values["n"]; given {
		count, err := strconv.ParseUint(n[0], 10, 31)
		if err != nil || len(n) > 1 {
			return "", &StatusError{http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n must be a single non-negative integer"}
		}
		values.Set("n", strconv.FormatUint(count, 10))
	}
	values.Del("ns")
	query := values.Encode()
	if len(query) > queryLimit-queryRoom {
		return "", &StatusError{http.StatusBadRequest, "UNSUPPORTED", "the query is too long"}
	}
	return query, nil
}
