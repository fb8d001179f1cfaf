// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"mime"
	"strings"
	"testing"
)

func TestAccepts(t *testing.T) {
	for fields, want := range map[string]bool{
		"":                                       true,
		"*/*":                                    true,
		"application/json":                       true,
		"Application/*":                          true,
		"garbage, more":                          true,
		ociManifest:                              true,
		strings.ToUpper(ociManifest):             true,
		" x/y , " + ociManifest + " ; q=0.5":     true,
		"x/y|" + ociManifest:                     true,
		"x/y":                                    false,
		"text/*":                                 false,
		ociIndex + ", " + dockerManifest:         false,
		ociManifest + ";q=0, */*":                false,
		ociManifest + "; Q = 0.000":              false,
		"*/*;q=0":                                false,
		"*/*;q=0.0, x/y":                         false,
		ociManifest + ";q=0.001":                 true,
		ociManifest + ";q=":                      true,
		ociManifest + "x":                        false,
		`x/y;a="` + ociManifest + `,*/*"`:        false,
		`x/y;a="\",` + ociManifest + `", */*`:    true,
		ociManifest + `;a="b";q=0`:               false,
		strings.Repeat("x/y,", 9999) + "*/*":     true,
		strings.Repeat(",;", 9999) + ociManifest: true,
	} {
		if got := accepts(strings.Split(fields, "|"), ociManifest+"; charset=utf-8"); got != want {
			t.Errorf("%.80q: %v", fields, got)
		}
	}
	if !accepts(nil, ociManifest) {
		t.Error("no field")
	}
}

func TestClass(t *testing.T) {
	if c := classOf([]string{ociIndex + ", x/y", strings.ToUpper(dockerManifestList) + ";q=1, " + ociManifest + ";q=0"}); c.acceptHeader() != ociIndex+", "+dockerManifestList {
		t.Errorf("%b %s", c, c.acceptHeader())
	}
	for c := range class(1 << len(knownTypes)) {
		if c > 0 && classOf([]string{c.acceptHeader()}) != c {
			t.Errorf("%b %s", c, c.acceptHeader())
		}
	}
	if class(0).acceptHeader() != acceptAny || !accepts([]string{acceptAny}, "any/thing") || strings.Contains(acceptAny, dockerSchema1Signed) {
		t.Error(acceptAny)
	}
}

func FuzzAccept(f *testing.F) {
	for _, seed := range []string{
		"", "*/*", acceptAny, "a/b;q=0.5,c/d", `a/b;x="y,z\"";q=0`, ";;,,==", "a/b;q", `"`, `\`, ociManifest + ";q=0.000", "q=0;a/b",
	} {
		f.Add(seed, ociManifest)
	}
	f.Fuzz(func(t *testing.T, field, mediaType string) {
		c := classOf([]string{field})
		if c != 0 && classOf([]string{c.acceptHeader()}) != c {
			t.Errorf("%b %s", c, c.acceptHeader())
		}
		got := accepts([]string{field}, mediaType)
		// The order of fields does not matter, and malformed media ranges are ignored.
		if again := accepts([]string{"garbage", field, ""}, mediaType); again != got {
			t.Errorf("%v, then %v", got, again)
		}
		// The result for a single range agrees with the standard library.
		name, parameters, err := mime.ParseMediaType(field)
		if err != nil || strings.ContainsAny(field, ",\"") || !strings.Contains(name, "/") {
			return
		}
		plain := strings.TrimSpace(strings.Split(mediaType, ";")[0])
		want := name == "*/*" || name == "application/*" || name == "application/json" || strings.EqualFold(name, plain)
		if q := parameters["q"]; q == "0" || q == "0.0" {
			want = false
		} else if strings.HasPrefix(q, "0") && strings.Trim(q, "0.") == "" {
			return
		}
		if got != want {
			t.Errorf("%q of %q: %v", field, mediaType, got)
		}
	})
}
