// SPDX-License-Identifier: GPL-3.0-or-later

package route

import (
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const hex256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

var (
	sha256 = digest.Digest("sha256:" + hex256)
	sha512 = digest.SHA512.FromString("")
	table  = New("a.example", "b.example:5000", "docker.io")
)

func parsed(t *testing.T, uri string) (Request, *StatusError) {
	t.Helper()
	u, err := url.ParseRequestURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	return table.Parse(u)
}

func TestValid(t *testing.T) {
	long := strings.Repeat("a", 255)
	for uri, want := range map[string]Request{
		"/v2/":                                        {Kind: Ping},
		"/v2":                                         {Kind: Ping},
		"/v2/_catalog":                                {Kind: Catalog},
		"/v2/_catalog?n=x":                            {Kind: Catalog},
		"/v2/r/manifests/latest":                      {Kind: Manifest, Repository: "r", Tag: "latest"},
		"/v2/p/r/i/manifests/v1.0_A-b":                {Kind: Manifest, Repository: "p/r/i", Tag: "v1.0_A-b"},
		"/v2/r/manifests/_":                           {Kind: Manifest, Repository: "r", Tag: "_"},
		"/v2/r/manifests/" + sha256.String():          {Kind: Manifest, Repository: "r", Digest: sha256},
		"/v2/r/manifests/" + sha512.String():          {Kind: Manifest, Repository: "r", Digest: sha512},
		"/v2/r/manifests/sha256-" + hex256:            {Kind: Manifest, Repository: "r", Tag: "sha256-" + hex256},
		"/v2/r/manifests/sha256-" + hex256 + ".sig":   {Kind: Manifest, Repository: "r", Tag: "sha256-" + hex256 + ".sig"},
		"/v2/r/manifests/" + strings.Repeat("t", 128): {Kind: Manifest, Repository: "r", Tag: strings.Repeat("t", 128)},
		"/v2/r/blobs/" + sha256.String():              {Kind: Blob, Repository: "r", Digest: sha256},
		"/v2/r/blobs/sha256%3A" + hex256:              {Kind: Blob, Repository: "r", Digest: sha256},
		"/v2/r/blobs/sha256%3a" + hex256:              {Kind: Blob, Repository: "r", Digest: sha256},
		"/v2/%72/%62lobs/" + sha256.String():          {Kind: Blob, Repository: "r", Digest: sha256},
		"/v2/r/blobs/" + sha256.String() + "?x=y":     {Kind: Blob, Repository: "r", Digest: sha256},
		"/v2/r/referrers/" + sha256.String():          {Kind: Referrers, Repository: "r", Digest: sha256},
		"/v2/r/referrers/" + sha256.String() + "?artifactType=a%2Fb%2Bc": {Kind: Referrers, Repository: "r", Digest: sha256, Query: "artifactType=a%2Fb%2Bc"},
		"/v2/r/tags/list":                    {Kind: Tags, Repository: "r"},
		"/v2/r/tags/list?last=b":             {Kind: Tags, Repository: "r", Query: "last=b"},
		"/v2/r/tags/list?n=010&last=b":       {Kind: Tags, Repository: "r", Query: "last=b&n=10"},
		"/v2/r/tags/list?n=0&next_page=a%3D": {Kind: Tags, Repository: "r", Query: "n=0&next_page=a%3D"},
		"/v2/r/tags/list?ns=a.example&n=1":   {Kind: Tags, Repository: "r", Query: "n=1"},
		"/v2/r/tags/list?":                   {Kind: Tags, Repository: "r"},
		// Components of a repository may have the names of endpoints.
		"/v2/manifests/blobs/manifests/tags": {Kind: Manifest, Repository: "manifests/blobs", Tag: "tags"},
		"/v2/r/tags/list/manifests/list":     {Kind: Manifest, Repository: "r/tags/list", Tag: "list"},
		"/v2/r/manifests/tags/list":          {Kind: Tags, Repository: "r/manifests"},
		"/v2/a.b_c__d-e--f0/tags/list":       {Kind: Tags, Repository: "a.b_c__d-e--f0"},
		"/v2/" + long + "/tags/list":         {Kind: Tags, Repository: long},
		// containerd sends the registry of the image reference.
		"/v2/r/tags/list?ns=b.example:5000":      {Kind: Tags, Upstream: "b.example:5000", Repository: "r"},
		"/v2/r/tags/list?ns=b.example%3A5000":    {Kind: Tags, Upstream: "b.example:5000", Repository: "r"},
		"/v2/r/tags/list?ns=B.Example:5000":      {Kind: Tags, Upstream: "b.example:5000", Repository: "r"},
		"/v2/library/r/manifests/1?ns=docker.io": {Kind: Manifest, Upstream: "docker.io", Repository: "library/r", Tag: "1"},
	} {
		if want.Upstream == "" {
			want.Upstream = "a.example"
		}
		if got, refusal := parsed(t, uri); refusal != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", uri, got, refusal, want)
		}
	}
}

func TestInvalid(t *testing.T) {
	const blob = "/v2/r/blobs/sha256:" + hex256
	for uri, want := range map[string]StatusError{
		"/":                       {404, "UNSUPPORTED", ""},
		"/v1/":                    {404, "UNSUPPORTED", ""},
		"/v2x":                    {404, "UNSUPPORTED", ""},
		"//v2/":                   {404, "UNSUPPORTED", ""},
		"/v2//":                   {404, "UNSUPPORTED", ""},
		"/v2/r":                   {404, "UNSUPPORTED", ""},
		"/v2/_catalog/":           {404, "UNSUPPORTED", ""},
		"/v2/r/_catalog":          {404, "UNSUPPORTED", ""},
		"/v2/manifests/latest":    {404, "UNSUPPORTED", ""},
		"/v2/r/tags/":             {404, "UNSUPPORTED", ""},
		"/v2/r/tags/list/":        {404, "UNSUPPORTED", ""},
		"/v2/r/tags/lists":        {404, "UNSUPPORTED", ""},
		"/v2/r/blobs/uploads/":    {404, "UNSUPPORTED", ""},
		"/v2/r/manifests/latest/": {404, "UNSUPPORTED", ""},
		"/v2/_oci/ext/discover":   {404, "UNSUPPORTED", ""},
		"/V2/r/tags/list":         {404, "UNSUPPORTED", ""},
		// Names.
		"/v2//tags/list":                                 {400, "NAME_INVALID", ""},
		"/v2/r//x/manifests/latest":                      {400, "NAME_INVALID", ""},
		"/v2/r//manifests/latest":                        {400, "NAME_INVALID", ""},
		"/v2//r/manifests/latest":                        {400, "NAME_INVALID", ""},
		"/v2/./r/manifests/latest":                       {400, "NAME_INVALID", ""},
		"/v2/r/../x/manifests/latest":                    {400, "NAME_INVALID", ""},
		"/v2/%2e%2e/x/manifests/latest":                  {400, "NAME_INVALID", ""},
		"/%762/":                                         {404, "UNSUPPORTED", ""},
		"/v2/a%2Fb/manifests/latest":                     {400, "NAME_INVALID", ""},
		"/v2/r%2Fmanifests%2Flatest":                     {400, "NAME_INVALID", ""},
		"/v2/R/manifests/latest":                         {400, "NAME_INVALID", ""},
		"/v2/r%00/manifests/latest":                      {400, "NAME_INVALID", ""},
		"/v2/r%0A/manifests/latest":                      {400, "NAME_INVALID", ""},
		"/v2/-r/manifests/latest":                        {400, "NAME_INVALID", ""},
		"/v2/r___x/manifests/latest":                     {400, "NAME_INVALID", ""},
		"/v2/r..x/manifests/latest":                      {400, "NAME_INVALID", ""},
		"/v2/r:5000/x/manifests/latest":                  {400, "NAME_INVALID", ""},
		"/v2/" + strings.Repeat("a", 256) + "/tags/list": {400, "NAME_INVALID", ""},
		// References.
		"/v2/r/manifests/":                                 {404, "MANIFEST_UNKNOWN", ""},
		"/v2/r/manifests/.INVALID_MANIFEST_NAME":           {404, "MANIFEST_UNKNOWN", ""},
		"/v2/r/manifests/..":                               {404, "MANIFEST_UNKNOWN", ""},
		"/v2/r/manifests/a%20b":                            {404, "MANIFEST_UNKNOWN", ""},
		"/v2/r/manifests/latest%0A":                        {404, "MANIFEST_UNKNOWN", ""},
		"/v2/r/manifests/sha256%253A" + hex256:             {404, "MANIFEST_UNKNOWN", ""},
		"/v2/r/manifests/" + strings.Repeat("t", 129):      {404, "MANIFEST_UNKNOWN", ""},
		"/v2/r/manifests/a:b":                              {400, "DIGEST_INVALID", ""},
		"/v2/r/manifests/sha256:totallywrong":              {400, "DIGEST_INVALID", ""},
		"/v2/r/manifests/latest@sha256:" + hex256:          {400, "DIGEST_INVALID", ""},
		"/v2/r/blobs/":                                     {400, "DIGEST_INVALID", ""},
		"/v2/r/blobs/latest":                               {400, "DIGEST_INVALID", ""},
		"/v2/r/blobs/uploads":                              {400, "DIGEST_INVALID", ""},
		"/v2/r/blobs/sha256:" + strings.ToUpper(hex256):    {400, "DIGEST_INVALID", ""},
		"/v2/r/blobs/SHA256:" + hex256:                     {400, "DIGEST_INVALID", ""},
		"/v2/r/blobs/sha256:" + hex256[1:]:                 {400, "DIGEST_INVALID", ""},
		"/v2/r/blobs/sha256:" + hex256 + "0":               {400, "DIGEST_INVALID", ""},
		"/v2/r/blobs/sha256:sha256:" + hex256:              {400, "DIGEST_INVALID", ""},
		"/v2/r/blobs/sha256%253A" + hex256:                 {400, "DIGEST_INVALID", ""},
		"/v2/r/blobs/md5:d41d8cd98f00b204e9800998ecf8427e": {400, "DIGEST_INVALID", ""},
		"/v2/r/referrers/latest":                           {400, "DIGEST_INVALID", ""},
		// Queries.
		blob + "?ns=c.example":                         {404, "NAME_UNKNOWN", ""},
		blob + "?ns=":                                  {404, "NAME_UNKNOWN", ""},
		blob + "?ns":                                   {404, "NAME_UNKNOWN", ""},
		blob + "?ns=a.example&ns=a.example":            {404, "NAME_UNKNOWN", ""},
		blob + "?ns=a.example%20":                      {404, "NAME_UNKNOWN", ""},
		"/v2/?ns=c.example":                            {404, "NAME_UNKNOWN", ""},
		blob + "?x=1;ns=c.example":                     {400, "UNSUPPORTED", ""},
		blob + "?ns=%zz":                               {400, "UNSUPPORTED", ""},
		blob + "?x=" + strings.Repeat("y", queryLimit): {400, "UNSUPPORTED", ""},
		"/v2/r/tags/list?n=":                           {400, "PAGINATION_NUMBER_INVALID", ""},
		"/v2/r/tags/list?n=-1":                         {400, "PAGINATION_NUMBER_INVALID", ""},
		"/v2/r/tags/list?n=1&n=1":                      {400, "PAGINATION_NUMBER_INVALID", ""},
		"/v2/r/tags/list?n=99999999999":                {400, "PAGINATION_NUMBER_INVALID", ""},
		"/v2/r/tags/list?n=ten":                        {400, "PAGINATION_NUMBER_INVALID", ""},
	} {
		got, refusal := parsed(t, uri)
		if refusal == nil {
			t.Errorf("%s: got %+v, want %d %s", uri, got, want.Status, want.Code)
			continue
		}
		if refusal.Status != want.Status || refusal.Code != want.Code || refusal.Message == "" {
			t.Errorf("%s: got %d %v, want %d %s", uri, refusal.Status, refusal, want.Status, want.Code)
		}
		if got != (Request{}) {
			t.Errorf("%s: refused, but %+v", uri, got)
		}
	}
}

func TestEquivalentRequestsShareAKey(t *testing.T) {
	for _, pair := range [][2]string{
		{"/v2/r/blobs/sha256%3A" + hex256, "/v2/r/blobs/sha256:" + hex256 + "?ns=a.example"},
		{"/v2/r/tags/list?n=1&last=x", "/v2/r/tags/list?last=x&n=01"},
		{"/v2/r/tags/list?last=%61", "/v2/r/tags/list?last=a"},
	} {
		one, _ := parsed(t, pair[0])
		two, _ := parsed(t, pair[1])
		if one.Key() != two.Key() || one.Kind == Unknown {
			t.Errorf("%s is %s, %s is %s", pair[0], one.Key(), pair[1], two.Key())
		}
	}
	one, _ := parsed(t, "/v2/r/tags/list?ns=docker.io")
	two, _ := parsed(t, "/v2/r/tags/list")
	if one.Key() == two.Key() {
		t.Errorf("two upstreams share %s", one.Key())
	}
}

func TestForeignNamespaceIsRefused(t *testing.T) {
	if _, refusal := New("").Parse(&url.URL{Path: "/v2/", RawQuery: "ns=a.example"}); refusal == nil {
		t.Error("a foreign ns is served")
	}
}

// FuzzParse checks that parsing a canonical URI returns the original request, and that different requests have
// different keys.
func FuzzParse(f *testing.F) {
	for _, seed := range [][2]string{
		{"/v2/r/blobs/sha256%3A" + hex256, "ns=a.example"}, {"/v2/r/manifests/latest", "ns=docker.io"},
		{"/v2/r/tags/list", "n=1&last=a%26b&ns=a.example"}, {"/v2/r/referrers/" + sha256.String(), "artifactType=x"},
		{"/v2/", ""}, {"/v2/_catalog", ""}, {"/v2/r/manifests/%2e%2e", "ns=%zz"}, {"//v2//", ";"},
		{"/v2/r/referrers/" + sha256.String(), strings.Repeat("\xa0", queryLimit)}, // three times as long when escaped
	} {
		f.Add(seed[0], seed[1], seed[0], "")
	}
	parse := func(path, query string) (Request, bool) {
		u, err := url.ParseRequestURI(path + "?" + query)
		if err != nil {
			return Request{}, false
		}
		r, refusal := table.Parse(u)
		return r, refusal == nil
	}
	f.Fuzz(func(t *testing.T, path, query, otherPath, otherQuery string) {
		r, ok := parse(path, query)
		if !ok {
			return
		}
		if !table.hosts[r.Upstream] || r.Kind == Unknown {
			t.Fatalf("%+v", r)
		}
		canonicalQuery := "ns=" + r.Upstream + "&" + r.Query
		if again, ok := parse(r.Path(), canonicalQuery); !ok || again != r {
			t.Fatalf("%+v has the URI %s, which is parsed as %+v", r, r.URI(), again)
		}
		if other, ok := parse(otherPath, otherQuery); ok && (r == other) != (r.Key() == other.Key()) {
			t.Fatalf("%+v and %+v: keys %s and %s", r, other, r.Key(), other.Key())
		}
	})
}

func BenchmarkParse(b *testing.B) {
	u, _ := url.ParseRequestURI("/v2/my-project/my-repository/my-image/manifests/v1.2.3?ns=a.example")
	for b.Loop() {
		if _, refusal := table.Parse(u); refusal != nil {
			b.Fatal(refusal)
		}
	}
}
