// SPDX-License-Identifier: GPL-3.0-or-later

// Command registry runs one replica of the pull-through cache: "registry cache CONFIG" runs package internal/cache.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/distribution/distribution/v3/version"

	"pullthrough.registry_cache/docker/registry/internal/cache"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit status.
func run(arguments []string, out, problems io.Writer) int {
	switch {
	case len(arguments) == 2 && arguments[0] == "cache":
		return cache.Main(arguments[1])
	case len(arguments) == 1 && arguments[0] == "--version":
		_, _ = fmt.Fprintln(out, "registry", version.Package(), version.Version())
		return 0
	}
	_, _ = fmt.Fprintln(problems, "usage: registry cache CONFIG, or registry --version")
	return 2
}
