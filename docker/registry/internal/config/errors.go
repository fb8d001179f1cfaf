// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"strconv"
	"strings"
)

// maxGot is the most bytes of a wrong value that an error repeats.
const maxGot = 80

// An Error is one problem of the configuration.
type Error struct {
	Key  string // dotted path, such as upstreams[0].host; empty for the whole file
	What string // what is wrong, such as "must be at least 64Mi"
	Got  string // what was given; empty if nothing was
	Fix  string // what to write, with an example
	Line int    // where it is in the file; 0 if unknown
}

// Error returns one sentence that names the key, what was given and the fix.
func (p Error) Error() string {
	key := p.Key
	if key == "" {
		key = "configuration"
	}
	var given []string
	if p.Got != "" {
		given = append(given, "got "+quote(p.Got))
	}
	if p.Line > 0 {
		given = append(given, fmt.Sprintf("line %d", p.Line))
	}
	sentence := key + " " + p.What
	if len(given) > 0 {
		sentence += " (" + strings.Join(given, ", ") + ")"
	}
	return sentence + "; " + p.Fix
}

// quote returns a value for a message: in quotes, on one line, and shortened if it is long.
func quote(value string) string {
	if len(value) > maxGot {
		value = value[:maxGot] + "…"
	}
	return strconv.Quote(value)
}

// Errors are all problems that were found.
type Errors []Error

// Error returns a line for each problem.
func (p Errors) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.Error()
	}
	return strings.Join(lines, "\n")
}

// err returns the problems as an error, or nil if there are none.
func (p Errors) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// covers reports whether one of the problems is about key, a part of it, or what it is part of.
func (p Errors) covers(key string) bool {
	for _, problem := range p {
		if isWithin(key, problem.Key) || isWithin(problem.Key, key) {
			return true
		}
	}
	return false
}

// isWithin reports whether key is the same as whole or a part of it.
func isWithin(key, whole string) bool {
	rest, ok := strings.CutPrefix(key, whole)
	return ok && (rest == "" || whole == "" || rest[0] == '.' || rest[0] == '[')
}
