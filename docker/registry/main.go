// SPDX-License-Identifier: GPL-3.0-or-later

// Command registry has two forms of a pull-through cache.
//
// "registry cache CONFIG" is the whole cache for one replica in one process: package internal/cache.
//
// "registry serve CONFIG" is the CNCF distribution registry, bounded and verifying, for use behind a front: only the parts
// that such a cache uses, and extensions registered through the registry's own extension points.
package main

import (
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/proxy"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/sirupsen/logrus"

	_ "pullthrough.registry_cache/docker/registry/internal/bounded"
	program "pullthrough.registry_cache/docker/registry/internal/cache"
	"pullthrough.registry_cache/docker/registry/internal/htpasswd"
	"pullthrough.registry_cache/docker/registry/internal/status"
	_ "pullthrough.registry_cache/docker/registry/internal/verify"
)

// limits leave the front, which waits 8 s, time for what the registry has stored.
var limits = status.Limits{Challenge: 2 * time.Second, Manifest: 5 * time.Second, Blob: 30 * time.Second}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "cache" {
		if len(os.Args) != 3 {
			fmt.Fprintln(os.Stderr, "usage: registry cache CONFIG")
			os.Exit(2)
		}
		os.Exit(program.Main(os.Args[2]))
	}
	prepare(limits)
	registry.RegisterHandler(htpasswd.Handler)
	registry.RegisterHandler(status.Handler)
	registry.RegisterHandler(quietAbort)
	if registry.RootCmd.Execute() != nil {
		os.Exit(1)
	}
}

// prepare makes the transport by which the registry asks the upstream, which is Go's default one.
func prepare(limits status.Limits) {
	http.DefaultTransport = &status.Transport{RoundTripper: http.DefaultTransport, Limits: limits}
}

// quietAbort restores an intended abort, which the registry's own panic handler turns into a logged stack trace.
func quietAbort(_ *configuration.Configuration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch p := recover().(type) {
			case nil:
			case *logrus.Entry:
				if p.Message == http.ErrAbortHandler.Error() {
					panic(http.ErrAbortHandler)
				}
				panic(p)
			default:
				panic(p)
			}
		}()
		next.ServeHTTP(w, r)
	})
}
