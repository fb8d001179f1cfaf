// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

const someHash = "$2y$04$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234"

func TestParseHtpasswd(t *testing.T) {
	lines, err := parseHtpasswd("\n # comment\r\nann:$2a$04$" + strings.Repeat("a", 53) + "\r\n  bob b@x:" + someHash + "  \nann:" + someHash)
	if err != nil || len(lines) != 2 || lines["ann"] != someHash || lines["bob b@x"] != someHash {
		t.Errorf("%v, %v", lines, err)
	}
}

func TestParseHtpasswdNamesTheLineOnly(t *testing.T) {
	good := "ann:" + someHash + "\n"
	for content, want := range map[string]string{
		"":                                 "no user",
		"# ann\n\n":                        "no user",
		good + "geheim":                    "line 2",
		good + "\n:" + someHash:            "line 3",
		good + "geheim:":                   "line 2",
		good + "geheim:geheim":             "line 2",
		good + "geheim:" + someHash[1:]:    "line 2",
		good + "geheim:" + someHash + "x":  "line 2",
		good + "geheim:" + someHash + ":x": "line 2",
		good + "geheim:" + strings.Replace(someHash, "a", "_", 1):     "line 2",
		good + "geheim:" + strings.Replace(someHash, "$2y", "$2x", 1): "line 2",
		good + "geheim:" + strings.Replace(someHash, "$2y", "$3y", 1): "line 2",
		good + "geheim:" + strings.Replace(someHash, "$04", "$03", 1): "line 2",
		good + "geheim:" + strings.Replace(someHash, "$04", "$18", 1): "line 2",
		good + "geheim:" + strings.Replace(someHash, "$04", "$-4", 1): "line 2",
		good + "geheim:" + strings.Replace(someHash, "$04", "$4$", 1): "line 2",
		good + "geheim:$apr1$geheim$geheimgeheimgeheimgehei":          "line 2",
		"\ufeff" + good:       "line 1",
		"ann\x00:" + someHash: "line 1",
	} {
		lines, err := parseHtpasswd(content)
		if err == nil || lines != nil {
			t.Errorf("%q: %v", content, lines)
			continue
		}
		message := err.Error()
		if !strings.Contains(message, want) || !strings.Contains(message, "htpasswd -nB") && !strings.Contains(message, "save the file") {
			t.Errorf("%q: %v", content, err)
		}
		if strings.Contains(message, "geheim") || strings.Contains(message, someHash[7:20]) {
			t.Errorf("the error shows the content: %v", err)
		}
	}
}

func TestCost(t *testing.T) {
	for text, want := range map[string]int{"04": 4, "10": 10, "17": 17} {
		if n, err := parseCost("$2b$" + text + someHash[6:]); n != want || err != nil {
			t.Errorf("%s: %d, %v", text, n, err)
		}
	}
}

func FuzzParseHtpasswd(f *testing.F) {
	for _, seed := range []string{"", "# x", "ann:" + someHash, "ann:" + someHash + "\r\n\nbob:" + someHash, ":", "a:$2y$04$", "\xff:" + someHash} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		lines, err := parseHtpasswd(content)
		if (err == nil) != (len(lines) > 0) {
			t.Errorf("%d users with error %v", len(lines), err)
		}
		for name, hash := range lines {
			n, err := bcrypt.Cost([]byte(hash))
			if err != nil || n < minCost || n > maxCost || len(hash) != 60 {
				t.Errorf("accepted the hash %q: %v", hash, err)
			}
			if name == "" || strings.ContainsAny(name, ":\n\x00") || !strings.Contains(content, name+":"+hash) {
				t.Errorf("accepted the name %q", name)
			}
		}
	})
}
