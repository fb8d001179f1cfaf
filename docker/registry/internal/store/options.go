// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"fmt"
	"log/slog"
	"time"
)

// MinLimit is the smallest limit that New accepts, in bytes.
const MinLimit = 64 << 20

// Options configure a store. The zero value of every field but Path and Limit means its default.
type Options struct {
	// Path is the directory that the store owns. Nothing else may write to it.
	Path string
	// Limit is the maximum disk space of the store, in bytes of allocated blocks, including directories and deleted
	// files that are still open.
	Limit int64

	// Hold is how many of a blob's last bytes are withheld from readers until the digest has been verified (default
	// 512).
	Hold int64
	// SmallLimit is the maximum size of content that is served from memory, in bytes (default 64 KiB).
	SmallLimit int64
	// MemoryLimit is the maximum total size of content in memory, in bytes (default 16 MiB).
	MemoryLimit int64
	// Window is the size of the window of a fill without room, in bytes (default 1 MiB).
	Window int64
	// MinRate is how fast a reader that delays a fill without room must read, in bytes per second (default 32 KiB/s).
	MinRate int64
	// Patience is how long such a reader is observed before it is dropped (default 20 s). The kernel buffers about a
	// megabyte for a slow client at a time, so Patience times MinRate should not be much less than that.
	Patience time.Duration
	// ScrubRate is how many bytes per second the scrub reads (default 8 MiB/s). A negative value disables the scrub.
	ScrubRate int64
	// ScrubEvery is the time between two verifications of a blob by the scrub (default 24 h).
	ScrubEvery time.Duration

	// Adopt is the name of the upstream that takes over the content that the unmodified registry has stored at Path
	// (default: none; such content is not used, but takes room).
	Adopt string

	// Logger is the logger of the store (default slog.Default).
	Logger *slog.Logger
}

// withDefaults returns the options with defaults for zero values.
func (o Options) withDefaults() Options {
	set := func(v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
	}
	set(&o.Hold, 512)
	set(&o.SmallLimit, 64<<10)
	set(&o.MemoryLimit, 16<<20)
	set(&o.Window, 1<<20)
	set(&o.MinRate, 32<<10)
	set((*int64)(&o.Patience), int64(20*time.Second))
	set(&o.ScrubRate, 8<<20)
	set((*int64)(&o.ScrubEvery), int64(24*time.Hour))
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// ConfigError is an error about an option, with the problem and the fix.
type ConfigError struct {
	Key     string // configuration key: store.path or store.limit
	Value   string
	Problem string
	Fix     string
}

// Error returns one sentence with the key, the problem, the value and the fix.
func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s: %s (got %q); %s", e.Key, e.Problem, e.Value, e.Fix)
}

// validate returns an error if an option is not valid.
func (o Options) validate() error {
	if o.Path == "" {
		return &ConfigError{"store.path", o.Path, "a directory is required", "set it, for example /var/lib/registry"}
	}
	if o.Limit < MinLimit {
		return &ConfigError{
			"store.limit", fmt.Sprint(o.Limit), "at least 64 MiB is required",
			fmt.Sprintf("set it to a number of bytes, for example %d", int64(10<<30)),
		}
	}
	return nil
}
