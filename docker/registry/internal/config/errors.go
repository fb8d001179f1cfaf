// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"strconv"
	"strings"
)

// maxGot is the maximum length of a wrong value in an error, in bytes.
const maxGot = 80

// An Error is one problem in the configuration.
type Error struct {
	Key  string // dotted path, such as upstreams[0].host; empty for the whole file
	What string // what is wrong, such as "must be at least 64Mi"
	Got  string // the value in the file; empty if there is none
	Fix  string // how to fix it, with an example
	Line int    // line in the file; 0 if unknown
}

// Error returns one sentence with the key, the value and the fix.
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

// quote returns a value for an error: in quotes, on one line, and truncated to maxGot.
func quote(value string) string {
	if len(value) > maxGot {
		value = value[:maxGot] + "…"
	}
	return strconv.Quote(value)
}

// Errors lists all problems in a configuration.
type Errors []Error

// Error returns one line per problem.
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

// covers reports whether one of the problems is about key, a key below it, or a key above it.
func (p Errors) covers(key string) bool {
	for _, problem := range p {
		if isWithin(key, problem.Key) || isWithin(problem.Key, key) {
			return true
		}
	}
	return false
}

// isWithin reports whether key equals whole or is below it.
func isWithin(key, whole string) bool {
	rest, ok := strings.CutPrefix(key, whole)
	return ok && (rest == "" || whole == "" || rest[0] == '.' || rest[0] == '[')
}
