// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

var listed = route.Request{Kind: route.Tags, Upstream: host, Repository: "p/i", Query: "n=1"}

func TestNextQuery(t *testing.T) {
	for field, want := range map[string]string{
		"":    "",
		`<x>`: "",
		`</v2/p/i/tags/list?n=1&last=a>; rel="prev"`:                                    "",
		`</v2/p/i/tags/list?n=1&last=a>; rel="next"`:                                    "last=a&n=1",
		`</v2/p/i/tags/list?n=1&last=a>; rel=next`:                                      "last=a&n=1",
		`</v2/p/i/tags/list?n=1&last=a>;title="a;b,c";REL="start NEXT"`:                 "last=a&n=1",
		`<https://up.example:8443/v2/p%2Fi/tags/list?last=a&n=1&ns=up>; rel="next"`:     "last=a&n=1",
		`<?last=a%26b&n=1>; rel="next"`:                                                 "last=a%26b&n=1",
		`<list?token=x>; rel="next"`:                                                    "token=x",
		`</other?a=1>; rel="first", </v2/p/i/tags/list?last=,;>; rel="next"`:            "!",
		`</other?a=1>; rel="first"; x="<y>,", </v2/p/i/tags/list?last=%3B>; rel="next"`: "last=%3B",
		`</v2/p/other/tags/list?n=1&last=a>; rel="next"`:                                "!",
		`</v2/p/i/tags/list>; rel="next"`:                                               "!",
		`</v2/p/i/tags/list?n=1>; rel="next"`:                                           "!",
		`<%>; rel="next"`:                                                               "!",
		`</v2/p/i/tags/list?last=` + strings.Repeat("a", 2000) + `>; rel="next"`:        "!",
	} {
		query, ok := nextQuery(listed, []string{`<a>; rel="x"`, field})
		if !ok {
			query = "!"
		}
		if query != want {
			t.Errorf("%.99s: %q, want %q", field, query, want)
		}
	}
}

// FuzzLink checks that this cache accepts each Link that it sends to clients, and interprets it in the same way.
func FuzzLink(f *testing.F) {
	for _, seed := range []string{
		`</v2/p/i/tags/list?n=1&last=a>; rel="next"`, `<?a=b>;rel=next`, `<sha256:x?n=2>; rel="next"`, `<>`, `<<>>;rel=next,`, `;rel="next`,
		`<https://[::1]/v2/p/i/tags/list?a=%00&a=>; rel="next"; rel="prev"`, `<a>; title="\"`, `</v2/p/i/tags/list?n=-1>; rel="next"`,
	} {
		f.Add(seed, "")
		f.Add(seed, host)
	}
	table := route.New(host)
	requests := []route.Request{
		listed, {Kind: route.Referrers, Upstream: host, Repository: "p/i", Digest: digest.FromString("x")},
	}
	f.Fuzz(func(t *testing.T, field, ns string) {
		for _, r := range requests {
			query, ok := nextQuery(r, []string{field})
			if query == "" || !ok {
				if query != "" {
					t.Errorf("refused, but %q", query)
				}
				continue
			}
			var names []string
			if ns != "" {
				names = []string{host}
			}
			written := link(r, query, names)
			target := nextTarget([]string{written})
			if strings.ContainsAny(written[:strings.LastIndexByte(written, '>')], " \r\n\x00") || target == "" {
				t.Fatalf("%q", written)
			}
			u, err := url.Parse(target)
			if err != nil || u.Host != "" || u.Scheme != "" {
				t.Fatalf("%q: %v", target, err)
			}
			again, refusal := table.Parse(u)
			if refusal != nil {
				if refusal.Code != "PAGINATION_NUMBER_INVALID" { // the query in the upstream's link is not valid
					t.Fatalf("%q: %v", target, refusal)
				}
				continue
			}
			if again.Path() != r.Path() {
				t.Errorf("%q for %q", again.Path(), r.Path())
			}
			if values, err := url.ParseQuery(query); err != nil || !values.Has("n") && again.Query != query {
				t.Errorf("%q, then %q", query, again.Query)
			}
		}
	})
}
