// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A Size is a number of bytes, written as a whole number with Ki, Mi, Gi, Ti or no unit.
type Size int64

// Units of sizes in bytes.
const (
	Ki Size = 1 << (10 * (iota + 1))
	Mi
	Gi
	Ti
)

var units = []struct {
	name string
	size Size
}{{"Ti", Ti}, {"Gi", Gi}, {"Mi", Mi}, {"Ki", Ki}}

// String returns the size in the largest unit that divides it.
func (s Size) String() string {
	for _, unit := range units {
		if s != 0 && s%unit.size == 0 {
			return strconv.FormatInt(int64(s/unit.size), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText returns the size in the form that UnmarshalText accepts.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText parses a size, such as 20Gi.
func (s *Size) UnmarshalText(text []byte) error {
	number, unit := string(text), Size(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = rest, u.size
			break
		}
	}
	// ParseInt would accept a sign.
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || n > uint64(math.MaxInt64/unit) {
		return errors.New("must be a size: a whole number of bytes, or a whole number with Ki, Mi, Gi or Ti")
	}
	*s = Size(n) * unit
	return nil
}

// Access selects the requests in the access log: 0 means none, 1 all, and n one of n.
type Access int

// String returns off, all or 1/n.
func (a Access) String() string {
	switch a {
	case 0:
		return "off"
	case 1:
		return "all"
	}
	return fmt.Sprintf("1/%d", int(a))
}

// MarshalText returns the value in the form that UnmarshalText accepts.
func (a Access) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText parses off, all or 1/n.
func (a *Access) UnmarshalText(text []byte) error {
	switch string(text) {
	case "off":
		*a = 0
		return nil
	case "all":
		*a = 1
		return nil
	}
	number, ok := strings.CutPrefix(string(text), "1/")
	n, err := strconv.ParseUint(number, 10, 31)
	if !ok || err != nil || n == 0 {
		return errors.New("must be off, all or 1/n (log one of n requests)")
	}
	*a = Access(n)
	return nil
}
