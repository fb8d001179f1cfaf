// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
)

func TestParseBasic(t *testing.T) {
	encode := base64.StdEncoding.EncodeToString
	for header, want := range map[string]string{
		basic("ann", "a"):                     "ann:a",
		"bASIC " + encode([]byte("ann:a:b")):  "ann:a:b",
		"Basic   " + encode([]byte("ann:a")):  "ann:a",
		"Basic " + encode([]byte("ä: ")):      "ä: ",
		basic("ann", strings.Repeat("x", 72)): "ann:" + strings.Repeat("x", 72),
		"":                                    "",
		"Basic":                               "",
		"Basic ":                              "",
		"Basicx " + encode([]byte("ann:a")):   "",
		"Bearer " + encode([]byte("ann:a")):   "",
		"Basic\t" + encode([]byte("ann:a")):   "",
		" " + basic("ann", "a"):               "",
		basic("ann", "a") + " ":               "",
		basic("ann", "a") + "\n":              "",
		"Basic " + encode([]byte("ann")):      "",
		basic("", "a"):                        "",
		basic("ann", ""):                      "",
		basic("ann", "a\x00b"):                "",
		basic("a\x00nn", "a"):                 "",
		basic("ann", strings.Repeat("x", 73)): "",
		basic(strings.Repeat("n", 1024), "a"): "",
		"Basic YW5uOmE":                       "", // of the wrong length
		"Basic YW5uOmF=":                      "", // another encoding of the same bytes as YW5uOmE=
		"Basic YW5u*mE=":                      "",
		"Basic " + base64.URLEncoding.EncodeToString([]byte("ann:??>>")): "",
	} {
		cred, ok := parseBasic(header)
		if ok != (want != "") || string(cred.pair) != want {
			t.Errorf("%q: %q, %v", header, cred.pair, ok)
		}
		if ok && string(cred.name)+":"+string(cred.password) != want {
			t.Errorf("%q: name %q, password %q", header, cred.name, cred.password)
		}
	}
}

func FuzzParseBasic(f *testing.F) {
	for _, seed := range []string{"", "Basic", basic("ann", "a"), "basic  YW5uOmE=", "Basic YW5uOmF=", "Basic YW5u\nOmE=", "Basic OmE=", "Basic AAA="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		cred, ok := parseBasic(header)
		if !ok {
			return
		}
		if len(header) > maxHeader || len(cred.password) > maxPassword || strings.ContainsRune(string(cred.pair), 0) {
			t.Errorf("accepted %q", header)
		}
		// Go's parser, which accepts exactly one space, must agree.
		scheme, encoded, _ := strings.Cut(header, " ")
		r := http.Request{Header: http.Header{"Authorization": {scheme + " " + strings.TrimLeft(encoded, " ")}}}
		name, password, ok := r.BasicAuth()
		if !ok || name != string(cred.name) || password != string(cred.password) {
			t.Errorf("%q: %q and %q, want %q and %q", header, cred.name, cred.password, name, password)
		}
	})
}
