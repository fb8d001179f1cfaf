// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
	"oras.land/oras-go/v2/registry/remote/auth"

	"pullthrough.registry_cache/docker/registry/internal/config"
)

const (
	// helperFailure is how long a helper is not run again after it failed.
	helperFailure = 3 * time.Second
	// helperOutput is the maximum size of a helper's output, in bytes.
	helperOutput = 64 << 10
	// helperGrace is how long a helper's pipes may stay open after it has exited.
	helperGrace = time.Second
	// refusedAfter is the minimum age of a credential that is fetched again because the upstream rejects it.
	refusedAfter = 10 * time.Second
)

// credential caches the helper's credential. All callers share one run of the helper.
type credential struct {
	config config.Credential
	log    *slog.Logger
	ctx    context.Context
	spawn  func(func())
	run    func(ctx context.Context, server string) (*credentials.Credentials, error)

	mu     sync.Mutex
	value  auth.Credential
	from   time.Time
	until  time.Time
	failed time.Time // the helper is not run again before this time
	err    error
	flight chan struct{} // closed when the current run has ended
}

// newCredential returns a credential whose helper is killed when ctx is done.
func newCredential(ctx context.Context, c config.Credential, log *slog.Logger, spawn func(func())) *credential {
	return &credential{config: c, log: log, ctx: ctx, spawn: spawn, run: helper(c.Helper).get}
}

// get returns the credential for a server. The helper is not killed when ctx is done, but after the configured timeout,
// so that later callers can use the result.
func (c *credential) get(ctx context.Context, server string) (auth.Credential, error) {
	for {
		c.mu.Lock()
		now := time.Now()
		switch {
		case now.Before(c.until):
			defer c.mu.Unlock()
			return c.value, nil
		case now.Before(c.failed):
			defer c.mu.Unlock()
			return auth.EmptyCredential, c.err
		case c.flight == nil:
			c.flight = make(chan struct{})
			c.spawn(func() { c.fetch(server) })
		}
		flight := c.flight
		c.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
			return auth.EmptyCredential, context.Cause(ctx)
		}
	}
}

// fetch runs the helper and stores the result.
func (c *credential) fetch(server string) {
	ctx, cancel := context.WithTimeoutCause(c.ctx, c.config.Timeout,
		fmt.Errorf("the credential helper took longer than %s", c.config.Timeout))
	defer cancel()
	given, err := c.run(ctx, server)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil && given.Secret == "" {
		err = errors.New("the credential helper returned no secret")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if err != nil {
		c.log.Error("Cannot get a credential", "helper", c.config.Helper, "error", truncate(err.Error()))
		c.err, c.failed = err, now.Add(helperFailure)
	} else {
		c.value, c.from, c.until = toCredential(given), now, now.Add(c.config.Lifetime)
	}
	close(c.flight)
	c.flight = nil
}

// toCredential converts a credential from Docker's format to oras-go's. The user name "<token>" marks a refresh token.
func toCredential(given *credentials.Credentials) auth.Credential {
	if given.Username == "<token>" {
		return auth.Credential{RefreshToken: given.Secret}
	}
	return auth.Credential{Username: given.Username, Password: given.Secret}
}

// invalidate drops a credential that the upstream rejects, and reports whether a retry may succeed. A new credential is
// kept, so that the helper does not run for each request to a repository that the credential cannot read.
func (c *credential) invalidate() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from.IsZero() || time.Since(c.from) < refusedAfter {
		return false
	}
	c.from, c.until = time.Time{}, time.Time{}
	return true
}

// helper is a program that implements Docker's credential helper protocol.
type helper string

// get runs the helper and returns the credential for a server.
func (h helper) get(ctx context.Context, server string) (*credentials.Credentials, error) {
	return client.Get(func(args ...string) client.Program { return command(ctx, string(h), args...) }, server)
}

// program is one run of a helper, which is killed when its context is done.
type program struct{ *exec.Cmd }

// command returns a run of a helper.
func command(ctx context.Context, name string, args ...string) program {
	cmd := exec.CommandContext(ctx, name, args...)
	// Kill the process group, so that no child process holds a pipe open.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = helperGrace
	return program{cmd}
}

// Input sets the helper's standard input.
func (p program) Input(in io.Reader) { p.Stdin = in }

// Output runs the helper and returns its output. If it failed, it returns no output, which may be a secret and would be
// logged.
func (p program) Output() ([]byte, error) {
	out, said := &limitedBuffer{left: helperOutput}, &firstBytes{}
	p.Stdout, p.Stderr = out, said
	err := p.Run()
	switch line := said.line(); {
	case err == nil:
		return out.buffer.Bytes(), nil
	case credentials.IsErrCredentialsNotFoundMessage(out.buffer.String()):
		return out.buffer.Bytes(), err
	case line != "":
		return nil, fmt.Errorf("%w: %s", err, line)
	}
	return nil, err
}

// limitedBuffer is a buffer with a size limit. It does not embed bytes.Buffer, whose ReadFrom has no limit.
type limitedBuffer struct {
	buffer bytes.Buffer
	left   int
}

// Write appends bytes, or returns an error if the limit is exceeded.
func (l *limitedBuffer) Write(p []byte) (int, error) {
	if len(p) > l.left {
		return 0, errors.New("the output is too long")
	}
	l.left -= len(p)
	return l.buffer.Write(p)
}

// secretLike matches words of an error that may be a token: those that begin like a Google token or a JWT, and long
// ones that are not a path, host or URL.
var secretLike = regexp.MustCompile(`\S*(?:eyJ|ya29\.)\S*|[A-Za-z0-9_+~=-]{40,}`)

// firstBytes is a writer that keeps the first bytes and discards the rest.
type firstBytes struct{ first []byte }

// Write keeps the first bytes, and discards the rest.
func (h *firstBytes) Write(p []byte) (int, error) {
	h.first = append(h.first, p[:min(len(p), maxErrorBody-len(h.first))]...)
	return len(p), nil
}

// line returns the first line that is not empty, with possible tokens redacted.
func (h *firstBytes) line() string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(h.first)), "\n")
	return secretLike.ReplaceAllString(strings.TrimSpace(line), "[removed]")
}

// withScope returns a context with the token scope for pulls from a repository.
func withScope(ctx context.Context, host, repository string) context.Context {
	return auth.WithScopesForHost(ctx, host, auth.ScopeRepository(repository, auth.ActionPull))
}

// login returns the credential for the upstream. If the helper fails, it returns an empty credential, since public
// content can still be pulled. The failure is counted, and a later 401 or 403 is reported as a missing credential.
func (u *Upstream) login(ctx context.Context, server string) (auth.Credential, error) {
	if u.credential == nil {
		return auth.EmptyCredential, nil
	}
	given, err := u.credential.get(ctx, server)
	if err == nil {
		return given, nil
	}
	u.count.anonymous.Inc()
	if f := tokenFetchOf(ctx); f != nil {
		f.anonymous = true
	}
	return auth.EmptyCredential, nil
}
