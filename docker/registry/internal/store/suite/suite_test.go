// SPDX-License-Identifier: GPL-3.0-or-later

// Package suite runs distribution's test suite for storage drivers. It is a separate package, since every process of
// the store's tests would create its 128 MiB of random bytes.
package suite

import (
	"flag"
	"log/slog"
	"testing"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/testsuites"

	"pullthrough.registry_cache/docker/registry/internal/store"
)

// TestSuite runs the suite without its file of 5 GiB.
func TestSuite(t *testing.T) {
	if err := flag.Set("test.short", "true"); err != nil {
		t.Fatal(err)
	}
	s, err := store.New(store.Options{Path: t.TempDir(), Limit: 1 << 30, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	testsuites.Driver(t, func() (driver.StorageDriver, error) { return s.Upstream("one") }, true)
	if st := s.Stats(); st.PeakBytes > 1<<30 || st.OpenReaders != 0 || st.Unkept != 0 {
		t.Errorf("%+v", st)
	}
}
