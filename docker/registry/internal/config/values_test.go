// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"math"
	"testing"
)

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "1023": 1023, "1Ki": 1024, "1536": 1536, "64Mi": 64 << 20, "20Gi": 20 << 30, "8Ti": 8 << 40,
		"9223372036854775807": math.MaxInt64, "8388607Ti": 8388607 << 40,
	} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s: got %d, %v, want %d", text, s, err, want)
		}
		var again Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%s: written as %s, which is %d, %v", text, s, again, err)
		}
	}
	for _, text := range []string{"", "Ki", "-1", "+1", "1 Ki", "1K", "1kb", "1KiB", "0x10", "1_000", "1e3", "8388608Ti", "9223372036854775808"} {
		s := Size(7)
		if err := s.UnmarshalText([]byte(text)); err == nil || s != 7 {
			t.Errorf("%q: got %d, %v, want an error", text, s, err)
		}
	}
}

func TestSizeText(t *testing.T) {
	for size, want := range map[Size]string{0: "0", 1: "1", Ki: "1Ki", 1536: "1536", 2048: "2Ki", 3 * Gi: "3Gi", 1024 * Gi: "1Ti"} {
		if got := size.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestAccess(t *testing.T) {
	for text, want := range map[string]Access{"off": 0, "all": 1, "1/1": 1, "1/100": 100} {
		a := Access(7)
		if err := a.UnmarshalText([]byte(text)); err != nil || a != want {
			t.Errorf("%s: got %d, %v, want %d", text, a, err, want)
		}
	}
	for _, text := range []string{"", "on", "1/", "1/-1", "1/0", "2/3", "100", "1/9999999999"} {
		var a Access
		if a.UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q is taken as %v", text, a)
		}
	}
}
