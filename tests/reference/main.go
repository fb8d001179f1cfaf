// SPDX-License-Identifier: GPL-3.0-or-later

// Command reference parses image references with github.com/distribution/reference. It reads one JSON string per line
// from standard input, and writes one JSON object per line.
package main

import (
	// Digest algorithms of go-digest.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"

	"github.com/distribution/reference"
)

type parts struct {
	Registry   string `json:"registry"`
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	Digest     string `json:"digest"`
	Error      string `json:"error"`
}

func parse(text string) parts {
	named, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return parts{Error: err.Error()}
	}
	found := parts{Registry: reference.Domain(named), Repository: reference.Path(named)}
	if tagged, ok := named.(reference.Tagged); ok {
		found.Tag = tagged.Tag()
	}
	if digested, ok := named.(reference.Digested); ok {
		found.Digest = digested.Digest().String()
	}
	return found
}

func main() {
	input, output := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var text string
		if err := input.Decode(&text); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		if err := output.Encode(parse(text)); err != nil {
			log.Fatal(err)
		}
	}
}
