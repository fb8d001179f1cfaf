// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import "testing"

func TestSniff(t *testing.T) {
	for body, want := range map[string]string{
		oneBody:                                ociManifest,
		`{"mediaType":"` + ociArtifact + `"}`:  ociArtifact,
		`{"schemaVersion":2,"config":{}}`:      ociManifest,
		`{"schemaVersion":2,"manifests":[]}`:   ociIndex,
		`{"schemaVersion":1}`:                  dockerSchema1,
		`{"schemaVersion":1,"signatures":[1]}`: dockerSchema1Signed,
		`{"mediaType":"a/b\r\nSet-Cookie: x"}`: "application/json",
		`{}`:                                   "application/json",
		"\x00":                                 "application/octet-stream",
	} {
		if got := sniff([]byte(body)); got != want {
			t.Errorf("%s: %s", body, got)
		}
	}
}
