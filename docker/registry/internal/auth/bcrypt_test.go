// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func TestMatchesKnownVectors(t *testing.T) {
	// From the test suite of jBCrypt and from Apache's htpasswd.
	for _, v := range []struct{ password, hash string }{
		{"a", "$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe"},
		{"abc", "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"},
		{"abcdefghijklmnopqrstuvwxyz", "$2a$06$.rCVZVOThsIa97pEDOxvGuRRgzG64bvtJ0938xuqzv18d3ZpQhstC"},
		{"~!@#$%^&*()      ~!@#$%^&*()PNBFRD", "$2a$06$fPIsBO8qRqkjj273rfaOI.HtSV9jLDpTbZn782DC6/t7qT67P6FfO"},
	} {
		if !matches(t.Context(), v.hash, []byte(v.password)) {
			t.Errorf("%q does not match", v.password)
		}
		if matches(t.Context(), v.hash, []byte(v.password+"x")) {
			t.Errorf("%q matches with a further byte", v.password)
		}
		for _, minor := range []string{"b", "y"} {
			if !matches(t.Context(), "$2"+minor+v.hash[3:], []byte(v.password)) {
				t.Errorf("%q does not match with $2%s$", v.password, minor)
			}
		}
	}
}

func TestMatchesStopsWithItsContext(t *testing.T) {
	hash := fmt.Sprintf("$2b$%02d$%s", maxCost, strings.Repeat("a", 53))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	at := time.Now()
	if matches(ctx, hash, []byte("x")) {
		t.Error("a check that was stopped matches")
	}
	// The whole check takes 5 s on the fastest machines.
	if took := time.Since(at); took > 4*time.Second {
		t.Errorf("stopped after %v", took)
	}
}

// BenchmarkBesideACheck measures how long a goroutine waits for a network event on one CPU while bcrypt runs.
func BenchmarkBesideACheck(b *testing.B) {
	hash := fmt.Sprintf("$2b$%02d$%s", maxCost, strings.Repeat("a", 53))
	for name, check := range map[string]func(context.Context){
		"matches": func(ctx context.Context) { matches(ctx, hash, []byte("x")) },
		"x-crypto": func(ctx context.Context) {
			for ctx.Err() == nil {
				_ = bcrypt.CompareHashAndPassword([]byte(strings.Replace(hash, "$17", "$10", 1)), []byte("x"))
			}
		},
		"idle": func(ctx context.Context) { <-ctx.Done() },
	} {
		b.Run(name, func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			go check(ctx)
			server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			defer server.Close()
			for b.Loop() {
				r, err := http.Get(server.URL)
				if err != nil {
					b.Fatal(err)
				}
				r.Body.Close()
			}
		})
	}
}

func FuzzMatches(f *testing.F) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), minCost)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(hash), []byte("secret"))
	f.Add(string(hash), []byte("wrong"))
	f.Add(string(hash[:59]), []byte("secret"))
	f.Add(string(hash)+"x", []byte("secret"))
	f.Add("$2b$04$"+strings.Repeat("\n", 53), []byte(""))
	f.Fuzz(func(t *testing.T, hash string, password []byte) {
		if n, err := parseCost(hash); err == nil && n > minCost+1 {
			return // only slow
		}
		if len(password) > maxPassword {
			password = password[:maxPassword]
		}
		want := bcrypt.CompareHashAndPassword([]byte(hash), password) == nil
		if got := matches(t.Context(), hash, password); got && !want {
			t.Errorf("%q has the hash %q, but not to bcrypt", password, hash)
		}
		// Conversely, with a matching hash.
		made, err := bcrypt.GenerateFromPassword(password, minCost)
		if err != nil {
			t.Fatal(err)
		}
		if !matches(t.Context(), string(made), password) {
			t.Errorf("%q has not the hash %q", password, made)
		}
	})
}
