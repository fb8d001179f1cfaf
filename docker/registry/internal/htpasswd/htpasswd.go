// SPDX-License-Identifier: GPL-3.0-or-later

// Package htpasswd shows whether the file of users is whole. The registry reads it when a credential comes: of a malformed
// one it says so once, then goes on with the users that it had before.
package htpasswd

import (
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"
)

// Handler exposes the number of users, looked up at each scrape, and serves nothing itself.
func Handler(config *configuration.Configuration, next http.Handler) http.Handler {
	if path, ok := config.Auth.Parameters()["path"]; ok && config.Auth.Type() == "htpasswd" {
		gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "registry_cache_htpasswd_users",
			Help: "Users of the htpasswd file; 0 if it is missing, malformed or empty.",
		}, func() float64 { return float64(users(fmt.Sprint(path))) })
		prometheus.Unregister(gauge)
		prometheus.MustRegister(gauge)
	}
	return next
}

// users counts the lines, unless one of them is none: the registry then takes none of the file.
func users(path string) (n int) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); err != nil || name == "" {
			return 0
		}
		n++
	}
	return n
}
