// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

// A Plan lists groups of clients that start together.
type Plan struct {
	Groups []Group `json:"groups"`
}

// A Group is a number of clients that do the same.
type Group struct {
	Name string `json:"name"`
	// Kind is get (one target per request), pull (an image: HEAD and GET of the first target, then the others, three at
	// a time) or slow-send (a request header that never ends).
	Kind string `json:"kind"`
	// Endpoints are addresses (HOST:PORT), which clients use in turn.
	Endpoints []string `json:"endpoints"`
	Targets   []Target `json:"targets"`
	Clients   int      `json:"clients"`

	// Each is the number of requests or pulls per client. Seconds is how long clients continue instead.
	Each    int     `json:"each"`
	Seconds float64 `json:"seconds"`
	// PerSecond is the request rate of the whole group. If it is 0, each client sends the next request immediately.
	PerSecond float64 `json:"per_second"`
	// Spread is the time over which the clients start, one after the other, in seconds.
	Spread float64 `json:"spread"`

	User string `json:"user"`
	// The password is read from an environment variable or a file, since other users can read command lines.
	PasswordEnv  string `json:"password_env"`
	PasswordFile string `json:"password_file"`
	// Guess gives each request a wrong credential: another password of User (password), or an unknown user (user).
	Guess string `json:"guess"`

	Accept string `json:"accept"`
	// Reconnect opens a new connection for each request.
	Reconnect bool `json:"reconnect"`
	// Expect lists the expected statuses (default: 200, or 206 for a range).
	Expect []int `json:"expect"`
	// Rate is how many bytes per second a client reads; 0 means no limit.
	Rate int64 `json:"rate"`
	// Keep keeps bodies in memory and hashes them after all clients are done, so that hashing is not measured.
	Keep bool `json:"keep"`
	// HashEvery makes only one of every HashEvery clients compare digests; the others compare sizes. 0 and 1 mean all
	// clients.
	HashEvery int `json:"hash_every"`
	// SendEveryMS is the time between two bytes of a slow sender, in milliseconds.
	SendEveryMS int `json:"send_every_ms"`
	// Timeout is how long a response may pause, in seconds.
	Timeout float64 `json:"timeout"`

	password string
}

// A Target is what a client requests.
type Target struct {
	Path string `json:"path"`
	// Digest is the expected digest of the body (default: the one at the end of Path, unless there is a range).
	Digest string `json:"digest"`
	// Size is the expected size of the body in bytes, if known. Keep requires it.
	Size int64 `json:"size"`
	// Range is the value of the Range header.
	Range string `json:"range"`
}

var digestSuffix = regexp.MustCompile(`/sha256:[0-9a-f]{64}$`)

// readPlan reads a plan, sets defaults and validates it.
func readPlan(in io.Reader) (*Plan, error) {
	decoder := json.NewDecoder(in)
	decoder.DisallowUnknownFields()
	plan := &Plan{}
	if err := decoder.Decode(plan); err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	if len(plan.Groups) == 0 {
		return nil, fmt.Errorf("groups: at least one is required")
	}
	for i := range plan.Groups {
		if err := plan.Groups[i].complete(); err != nil {
			return nil, fmt.Errorf("groups[%d].%w", i, err)
		}
	}
	return plan, nil
}

// complete sets the defaults and the password of a group, and returns an error if the group is not valid.
func (g *Group) complete() error {
	if g.Kind == "" {
		g.Kind = "get"
	}
	if g.Timeout == 0 {
		g.Timeout = 120
	}
	for i := range g.Targets {
		t := &g.Targets[i]
		if t.Digest == "" && t.Range == "" && digestSuffix.MatchString(t.Path) {
			t.Digest = t.Path[strings.LastIndexByte(t.Path, '/')+1:]
		}
		if g.Keep && t.Size == 0 {
			return fmt.Errorf("targets[%d].size: required by keep; for example 1048576", i)
		}
		if !strings.HasPrefix(t.Path, "/") || strings.ContainsAny(t.Path+t.Range, " \r\n") {
			return fmt.Errorf("targets[%d]: must have a path such as /v2/, without spaces or line breaks (got %q, %q)", i, t.Path, t.Range)
		}
	}
	switch {
	case g.Kind != "get" && g.Kind != "pull" && g.Kind != "slow-send":
		return fmt.Errorf("kind: must be get, pull or slow-send (got %q)", g.Kind)
	case len(g.Endpoints) == 0:
		return fmt.Errorf("endpoints: at least one is required, such as 127.0.0.1:5000")
	case len(g.Targets) == 0:
		return fmt.Errorf("targets: at least one is required")
	case g.Clients < 1:
		return fmt.Errorf("clients: must be at least 1 (got %d)", g.Clients)
	case (g.Each > 0) == (g.Seconds > 0):
		return fmt.Errorf("each: set either each or seconds, for example each: 1")
	case g.Keep && g.Each == 0:
		return fmt.Errorf("keep: requires each, since bodies stay in memory; for example each: 1")
	case g.Kind == "slow-send" && (g.Seconds <= 0 || g.SendEveryMS < 1):
		return fmt.Errorf("send_every_ms: required by slow-send, together with seconds; for example send_every_ms: 1000, seconds: 10")
	case g.HashEvery < 0 || g.Keep && g.HashEvery > 1:
		return fmt.Errorf("hash_every: must be at least 0, and 0 with keep, which hashes all bodies (got %d)", g.HashEvery)
	case g.Guess != "" && g.Guess != "password" && g.Guess != "user":
		return fmt.Errorf("guess: must be password or user (got %q)", g.Guess)
	case strings.ContainsAny(g.Accept, "\r\n"):
		return fmt.Errorf("accept: must not contain line breaks")
	}
	return g.readPassword()
}

func (g *Group) readPassword() error {
	switch {
	case g.PasswordEnv != "":
		value, found := os.LookupEnv(g.PasswordEnv)
		if !found {
			return fmt.Errorf("password_env: the environment variable %s is not set", g.PasswordEnv)
		}
		g.password = value
	case g.PasswordFile != "":
		content, err := os.ReadFile(g.PasswordFile)
		if err != nil {
			return fmt.Errorf("password_file: %w", err)
		}
		g.password = strings.TrimRight(string(content), "\r\n")
	}
	return nil
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
