// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/config"
)

// helperMain runs the test binary as a credential helper. A file next to it controls its behavior.
func helperMain() {
	self := os.Args[0]
	log, err := os.OpenFile(self+".log", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	server, _ := io.ReadAll(os.Stdin)
	_, _ = fmt.Fprintf(log, "%s\n", server)
	_ = log.Close()
	secret, _ := os.ReadFile(self + ".secret")
	switch text := string(secret); text {
	case "HANG":
		time.Sleep(time.Hour)
	case "FAIL":
		fmt.Println("the helper says no")
		os.Exit(1)
	case "LONG":
		fmt.Printf(`{"ServerURL":%q,"Username":"user","Secret":"s1"}`, strings.Repeat("x", 2*helperOutput))
	default:
		fmt.Printf(`{"ServerURL":"x","Username":"user","Secret":%q}`, text)
	}
}

// helperFor returns the configuration of a helper that returns a secret.
func helperFor(t testing.TB, secret string) *config.Credential {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "docker-credential-test")
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	c := &config.Credential{Helper: path, Lifetime: time.Hour, Timeout: 30 * time.Second}
	gives(t, c, secret)
	return c
}

func gives(t testing.TB, c *config.Credential, secret string) {
	t.Helper()
	if err := os.WriteFile(c.Helper+".secret", []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
}

// runs returns the server for which the helper was called, once per run.
func runs(c *config.Credential) []string {
	log, _ := os.ReadFile(c.Helper + ".log")
	return strings.Fields(string(log))
}
