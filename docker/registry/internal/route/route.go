// SPDX-License-Identifier: GPL-3.0-or-later

// Package route turns a client's URL into a request of the OCI distribution specification (1.1) to one upstream.
//
// A parsed request has a canonical path, and requests that mean the same have the same key. Requests that are ambiguous or outside
// of the specification are refused, so that no later package has to look at a path.
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
	// queryLimit is the most bytes that a query may have.
	queryLimit = 2048
	// queryRoom is what is left of it for "ns" and what replicas add, once the query is canonical.
	queryRoom = 512
)

// Kind is what a request asks for.
type Kind int

// Kinds of requests. Unknown is the zero value and always comes with a refusal.
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

// A Request is a parsed request. Two requests that are equal (==) ask for the same.
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

// Reference returns the digest or the tag.
func (r Request) Reference() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// Key returns a key that identifies the request among those of all upstreams.
func (r Request) Key() string { return r.Upstream + r.URI() } // a host has no slash, a URI begins with one

// A StatusError is the error of a request that is not served, as it is sent to the client.
type StatusError struct {
	Status  int    // of HTTP
	Code    string // of the specification's error body
	Message string
}

// Error returns the code and the message.
func (e *StatusError) Error() string { return e.Code + ": " + e.Message }

// refuse returns a StatusError without a request.
func refuse(status int, code, message string) (Request, *StatusError) {
	return Request{}, &StatusError{Status: status, Code: code, Message: message}
}

// A Table parses requests to a set of upstreams.
type Table struct {
	hosts map[string]bool
	first string
}

// New returns a table of upstream hosts. The first one serves requests that name no host.
func New(first string, others ...string) *Table {
	t := &Table{hosts: map[string]bool{first: true}, first: first}
	for _, host := range others {
		t.hosts[host] = true
	}
	return t
}

// Parse returns the request of a URL, or the error if it is refused.
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

// parseQuery parses a query. It refuses a query that is malformed in any part, since "ns" might be in that part.
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

// upstream returns the host that "ns" names, or the first one if there is no "ns". The error for a registry that is not configured
// is 404, after which containerd tries its next host.
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

// unescapedPath returns the unescaped path. It refuses an escaped slash, which would change the segments.
func unescapedPath(u *url.URL) (string, *StatusError) {
	// net/url keeps RawPath only where Path has lost something, such as which slashes were escaped.
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
	// Not NAME_UNKNOWN: clients that ask for referrers would not fall back to the tag.
	return &StatusError{http.StatusNotFound, "UNSUPPORTED", "this cache has no such endpoint"}
}

// parse returns the request of a path. It takes the endpoint from the last two segments, since a repository may have components
// such as "blobs".
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
			// 404, as the specification's conformance suite expects: no registry has such a tag.
			return refuse(http.StatusNotFound, "MANIFEST_UNKNOWN", "the reference is no tag: at most 128 letters, digits, _, . and -")
		}
		r.Tag = reference
		return r, nil
	}
	r.Digest = digest.Digest(reference)
	if !digests.Valid(r.Digest) {
		return refuse(http.StatusBadRequest, "DIGEST_INVALID", "the digest is no sha256, sha384 or sha512 in lower-case hex")
	}
	return r, nil
}

// cutLast cuts a path around its last slash.
func cutLast(path string) (before, after string, found bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}

// canonicalQuery returns the query for an upstream. It keeps unknown keys, since an upstream's Link header may use them for pages.
func canonicalQuery(values url.Values) (string, *StatusError) {
	if len(values) == 0 {
		return "", nil
	}
	if n, given := values["n"]; given {
		count, err := strconv.ParseUint(n[0], 10, 31)
		if err != nil || len(n) > 1 {
			return "", &StatusError{http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n must be one whole number of at least 0"}
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
