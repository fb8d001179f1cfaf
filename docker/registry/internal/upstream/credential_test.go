// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker-credential-helpers/credentials"

	"pullthrough.registry_cache/docker/registry/internal/config"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// TestCredential checks that the helper runs once and one token is requested per repository, for any number of clients.
func TestCredential(t *testing.T) {
	c := helperFor(t, "s1")
	s := start(t, patient, c)
	s.g.set(func() { s.g.login = true })
	s.g.image("v1")
	d, content := s.g.blob(mib)
	var clients sync.WaitGroup
	for i := range 20 {
		r := tag("v1")
		if i%2 == 0 {
			r.Repository = fmt.Sprint("other/image", i)
		}
		clients.Go(func() { s.right(t, r) })
	}
	clients.Go(func() { s.good(t, s.Upstream, s.fetch(t, s.Upstream, d, -1), d, content) })
	clients.Wait()
	if got := runs(c); len(got) != 1 || got[0] != s.g.host() {
		t.Errorf("runs for %q", got)
	}
	if s.g.grants != 11 {
		t.Errorf("%d tokens", s.g.grants)
	}
	if n := s.value(t, "registry_cache_credential_failures_total"); n != 0 {
		t.Errorf("%v failures", n)
	}
}

// TestBasic checks an upstream with basic authentication, which gets the credential itself.
func TestBasic(t *testing.T) {
	c := helperFor(t, "s1")
	s := start(t, patient, c)
	s.g.set(func() { s.g.login, s.g.basic = true, true })
	s.g.image("v1")
	s.right(t, tag("v1"))
	gives(t, c, "FAIL")
	n := start(t, patient, c)
	n.g.set(func() { n.g.login, n.g.basic = true, true })
	isError(t, "no credential", n.ask(t, tag("v1")), 503, "UNAVAILABLE")
}

// TestHelperHangs checks that a hanging helper runs once for all clients, does not block clients that leave, and is
// killed at its deadline. The failure is then remembered.
func TestHelperHangs(t *testing.T) {
	c := helperFor(t, "HANG")
	c.Timeout = time.Second
	s := start(t, patient, c)
	s.g.set(func() { s.g.login = true })
	s.g.image("v1")
	var clients sync.WaitGroup
	for i := range 100 {
		clients.Go(func() {
			if r := tag(fmt.Sprint("v", i%10)); i%2 == 0 {
				isError(t, "hangs", s.ask(t, r), 503, "UNAVAILABLE")
			} else {
				s.late(t, r)
			}
		})
	}
	clients.Wait()
	isError(t, "failed", s.ask(t, tag("v1")), 503, "UNAVAILABLE")
	if got := runs(c); len(got) != 1 {
		t.Errorf("%d runs while the failure is known", len(got))
	}
	gives(t, c, "s1")
	s.credential.mu.Lock()
	s.credential.failed, s.credential.config.Timeout = time.Now(), time.Minute
	s.credential.mu.Unlock()
	s.right(t, tag("v1"))
}

// TestHelperFails checks that public content is pulled without a credential, and that anonymous tokens are not kept.
func TestHelperFails(t *testing.T) {
	for _, how := range []string{"FAIL", "LONG", ""} {
		c := helperFor(t, how)
		s := start(t, patient, c)
		s.g.set(func() { s.g.login, s.g.public = true, true })
		s.g.image("v1")
		s.right(t, tag("v1"))
		s.g.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Authorization") == "Bearer t1" {
				refuse(w, 403)
				return true
			}
			return false
		})
		if e := isError(t, how, s.ask(t, tag("v2")), 503, "UNAVAILABLE"); e.Upstream != 403 {
			t.Errorf("%#v", e)
		}
		if n := s.value(t, "registry_cache_credential_failures_total"); n == 0 {
			t.Error("not counted")
		}
		if got := runs(c); len(got) != 1 {
			t.Errorf("%q: %d runs", how, len(got))
		}
		s.g.misbehave(nil)
		gives(t, c, "s1")
		s.g.set(func() { s.g.public = false; s.g.token = "t2" })
		s.credential.mu.Lock()
		s.credential.failed = time.Now()
		s.credential.mu.Unlock()
		s.right(t, tag("v1"))
	}
}

// TestHelperIsMissing checks that a missing helper counts as a failed one.
func TestHelperIsMissing(t *testing.T) {
	s := start(t, patient, &config.Credential{Helper: "docker-credential-that-is-nowhere", Lifetime: time.Hour, Timeout: time.Second})
	s.g.set(func() { s.g.login = true })
	isError(t, "missing", s.ask(t, tag("v1")), 503, "UNAVAILABLE")
}

// TestHelperGroup checks that child processes of the helper are killed, even if they hold its output open.
func TestHelperGroup(t *testing.T) {
	path := t.TempDir() + "/helper"
	if err := os.WriteFile(path, []byte("#!/bin/sh\nsleep 3600 &\necho $! >\"$0.pid\"\nwait\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := start(t, patient, &config.Credential{Helper: path, Lifetime: time.Hour, Timeout: time.Second})
	s.g.set(func() { s.g.login = true })
	isError(t, "hangs", s.ask(t, tag("v1")), 503, "UNAVAILABLE")
	var pid int
	content, err := os.ReadFile(path + ".pid")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Sscan(string(content), &pid)
	testutil.Eventually(t, "the end of what it has started", func() bool {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || len(state) == 0 || zombie(string(state))
	})
}

func zombie(stat string) bool {
	var pid int
	var name, state string
	_, err := fmt.Sscan(stat, &pid, &name, &state)
	return err == nil && state == "Z"
}

// TestRefreshToken checks refresh tokens in Docker's protocol.
func TestRefreshToken(t *testing.T) {
	if got := toCredential(&credentials.Credentials{Username: "<token>", Secret: "x"}); got.RefreshToken != "x" || got.Password != "" {
		t.Errorf("%+v", got)
	}
}

// TestHelperOutputIsNotLogged checks that the helper's output is never logged, and that the first line of its errors is
// logged without possible tokens.
func TestHelperOutputIsNotLogged(t *testing.T) {
	const jwt, google, opaque = "eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "ya29.c.c0AYnqXl", "0123456789abcdef0123456789abcdef0123456789abcdef"
	for name, script := range map[string]string{
		"output": "echo '{\"Secret\":\"" + google + "\"}'; exit 3",
		"errors": "echo 'cannot read https://sts.googleapis.com/v1/token: token=" + jwt + ", " + google + ", key " + opaque + "' >&2; echo " + google + " >&2; exit 3",
		"cut":    "printf 'cannot read https://sts.googleapis.com/v1/token: %0300d' 1 >&2; exit 3",
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir() + "/helper"
			if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			c := newCredential(ctx, config.Credential{Helper: path, Lifetime: time.Hour, Timeout: 30 * time.Second},
				slog.New(slog.NewTextHandler(&log, nil)), func(f func()) { go f() })
			_, err := c.get(ctx, "r.example")
			if err == nil {
				t.Fatal("no error")
			}
			said := log.String() + err.Error()
			for _, secret := range []string{"eyJ", "ya29", opaque, "0000"} {
				if strings.Contains(said, secret) {
					t.Errorf("%s is logged: %s", secret, said)
				}
			}
			if !strings.Contains(said, "exit status 3") {
				t.Errorf("the status is missing: %s", said)
			}
			if name != "output" && !strings.Contains(said, "cannot read https://sts.googleapis.com/v1/token: ") {
				t.Errorf("the reason is missing: %s", said)
			}
		})
	}
}
