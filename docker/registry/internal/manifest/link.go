// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"net/url"
	"strings"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

// queryLimit is the maximum length of a query that package route accepts, less room for "ns", in bytes.
const queryLimit = 1792

// nextQuery returns the query for the next page in the Link fields of an upstream's answer, in canonical form and
// without "ns". It is empty if there is no next page. ok is false if a client cannot ask this cache for the next page,
// because the link has another path, is too long, or has no valid query.
func nextQuery(r route.Request, fields []string) (query string, ok bool) {
	target := nextTarget(fields)
	if target == "" {
		return "", true
	}
	u, err := url.Parse(target)
	if err != nil {
		return "", false
	}
	// A target without a path, such as "?n=1&last=a", has the path of the request.
	if p := u.EscapedPath(); p != "" && !samePath(p, r) {
		return "", false
	}
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", false
	}
	values.Del("ns")
	query = values.Encode()
	if query == "" || len(query) > queryLimit || query == r.Query {
		return "", false // the same page again, which would never end
	}
	return query, true
}

// samePath reports whether a path in an upstream's link is that of the request. A relative path is compared with the
// last segment.
func samePath(p string, r route.Request) bool {
	plain, err := url.PathUnescape(p)
	if err != nil {
		return false
	}
	want := r.Path()
	return plain == want || plain == want[strings.LastIndexByte(want, '/')+1:]
}

// nextTarget returns the target of the first link with the relation "next".
func nextTarget(fields []string) string {
	for _, field := range fields {
		for field != "" {
			_, rest, found := strings.Cut(field, "<")
			if !found {
				break
			}
			target, rest, found := strings.Cut(rest, ">")
			if !found {
				break
			}
			var parameters string
			parameters, field = cutUnquoted(rest, ',')
			if isNext(parameters) {
				return strings.TrimSpace(target)
			}
		}
	}
	return ""
}

// isNext reports whether the parameters of a link include the relation "next".
func isNext(parameters string) bool {
	for parameters != "" {
		var p string
		p, parameters = cutUnquoted(parameters, ';')
		name, value, _ := strings.Cut(p, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "rel") {
			continue
		}
		for relation := range strings.FieldsSeq(strings.Trim(strings.TrimSpace(value), `"`)) {
			if strings.EqualFold(relation, "next") {
				return true
			}
		}
		return false // only the first counts
	}
	return false
}

// link returns the Link field for a client's next page. ns is the list of values of "ns" in the client's query.
func link(r route.Request, next string, ns []string) string {
	if len(ns) > 0 {
		next += "&ns=" + url.QueryEscape(ns[0])
	}
	return "<" + r.Path() + "?" + next + `>; rel="next"`
}
