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

// A Plan is groups of clients that start together.
type Plan struct {
	Groups []Group `json:"groups"`
}

// A Group is clients that do the same.
type Group struct {
	Name string `json:"name"`
	// Kind is get (one target a request), pull (an image: HEAD and GET of the first target, then the others three at a time)
	// or slow-send (a request header that never ends).
	Kind string `json:"kind"`
	// Endpoints are addresses HOST:PORT; clients take them in turn.
	Endpoints []string `json:"endpoints"`
	Targets   []Target `json:"targets"`
	Clients   int      `json:"clients"`

	// Each is how many requests, or pulls, a client makes; Seconds is how long it goes on instead.
	Each    int     `json:"each"`
	Seconds float64 `json:"seconds"`
	// PerSecond paces the requests of the whole group; without it a client asks again at once.
	PerSecond float64 `json:"per_second"`
	// Spread is in how many seconds the clients start, one after the other.
	Spread float64 `json:"spread"`

	User string `json:"user"`
	// The password comes from a variable of the environment or a file: other users can read command lines.
	PasswordEnv  string `json:"password_env"`
	PasswordFile string `json:"password_file"`
	// Guess makes each request a wrong one: with another password of User (password), or of an unknown user (user).
	Guess string `json:"guess"`

	Accept string `json:"accept"`
	// Reconnect opens a connection for each request.
	Reconnect bool `json:"reconnect"`
	// Expect is the right statuses; 200, or 206 for a range, without.
	Expect []int `json:"expect"`
	// Rate is the bytes per second that a client reads; 0 is no limit.
	Rate int64 `json:"rate"`
	// Keep keeps bodies in memory and hashes them when all clients are done, so that hashing is not measured.
	Keep bool `json:"keep"`
	// HashEvery is that one of so many clients compares digests, and the others only sizes; 0 and 1 are all.
	HashEvery int `json:"hash_every"`
	// SendEveryMS is the time between two bytes of a slow sender.
	SendEveryMS int `json:"send_every_ms"`
	// Timeout is how many seconds an answer may pause.
	Timeout float64 `json:"timeout"`

	password string
}

// A Target is what is asked for.
type Target struct {
	Path string `json:"path"`
	// Digest is what the body must have; the one at the end of Path without, if no range is asked for.
	Digest string `json:"digest"`
	// Size in bytes is what the body must have, if known. Keep needs it.
	Size int64 `json:"size"`
	// Range is the header's value.
	Range string `json:"range"`
}

var digestSuffix = regexp.MustCompile(`/sha256:[0-9a-f]{64}$`)

// readPlan returns the plan that a reader holds, with defaults set and checked.
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
			return fmt.Errorf("targets[%d].size: keep needs it", i)
		}
		if !strings.HasPrefix(t.Path, "/") || strings.ContainsAny(t.Path+t.Range, " \r\n") {
			return fmt.Errorf("targets[%d]: must have a path such as /v2/, and neither blanks nor line ends (got %q, %q)", i, t.Path, t.Range)
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
		return fmt.Errorf("each: set either each or seconds")
	case g.Keep && g.Each == 0:
		return fmt.Errorf("keep: needs each, since bodies stay in memory")
	case g.Kind == "slow-send" && (g.Seconds <= 0 || g.SendEveryMS < 1):
		return fmt.Errorf("send_every_ms: slow-send needs it, and seconds")
	case g.HashEvery < 0 || g.Keep && g.HashEvery > 1:
		return fmt.Errorf("hash_every: must be at least 0, and all bodies that are kept are hashed (got %d)", g.HashEvery)
	case g.Guess != "" && g.Guess != "password" && g.Guess != "user":
		return fmt.Errorf("guess: must be password or user (got %q)", g.Guess)
	case strings.ContainsAny(g.Accept, "\r\n"):
		return fmt.Errorf("accept: must not have line ends")
	}
	return g.readPassword()
}

func (g *Group) readPassword() error {
	switch {
	case g.PasswordEnv != "":
		value, found := os.LookupEnv(g.PasswordEnv)
		if !found {
			return fmt.Errorf("password_env: the environment has no %s", g.PasswordEnv)
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
