// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSecretIsReloaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := secretFile(t, testSecret+"\n")
		s, err := openSecret(path, quiet)
		if err != nil {
			t.Fatal(err)
		}
		write := func(content string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		other := strings.ToUpper(testSecret)
		write(other + "\r\n" + testSecret)
		if got := s.get(); !slices.Equal(got, []string{testSecret}) {
			t.Errorf("read again within a second: %d keys", len(got))
		}
		time.Sleep(recheckAfter)
		if got := s.get(); !slices.Equal(got, []string{other, testSecret}) {
			t.Errorf("not read again: %q", got)
		}
		for _, bad := range []string{"", "short", "\n\n"} {
			write(bad)
			time.Sleep(recheckAfter)
			if got := s.get(); len(got) != 2 {
				t.Errorf("%q is taken", bad)
			}
			time.Sleep(recheckAfter)
			s.get()
		}
		if n := s.failures.Load(); n != 3 {
			t.Errorf("%d failures are counted", n)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(recheckAfter)
		if got := s.get(); len(got) != 2 || s.failures.Load() != 4 {
			t.Errorf("%d keys, %d failures", len(got), s.failures.Load())
		}
	})
}

func TestUnusableSecrets(t *testing.T) {
	for _, content := range []string{"", "\n", "tooshort", strings.Repeat("x", secretMax+1), testSecret + "\n" + testSecret + "\n" + testSecret} {
		_, err := openSecret(secretFile(t, content), quiet)
		if err == nil || !strings.Contains(err.Error(), "openssl rand") || content != "" && content != "\n" && strings.Contains(err.Error(), content) {
			t.Errorf("%.20q: %v", content, err)
		}
	}
	for _, path := range []string{t.TempDir(), t.TempDir() + "/missing"} {
		if _, err := openSecret(path, quiet); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
