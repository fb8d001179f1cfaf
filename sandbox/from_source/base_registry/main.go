// SPDX-License-Identifier: GPL-3.0-or-later

// Command registry is the CNCF distribution registry without the storage drivers of clouds, whose compilation for another
// platform takes minutes. Compiled with the modules of tools/registry.
package main

import (
	"os"

	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/proxy"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
)

func main() {
	if registry.RootCmd.Execute() != nil {
		os.Exit(1)
	}
}
