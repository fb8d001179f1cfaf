// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"pullthrough.registry_cache/docker/registry/internal/config"
	"pullthrough.registry_cache/docker/registry/internal/server"
)

const (
	// logBurst is the maximum number of records with the same message that the log accepts per logPeriod.
	logBurst  = 20
	logPeriod = 10 * time.Second
	// gcPercent is the default of GOGC. Only a few MiB are live; collecting garbage every few MiB took a tenth of the
	// CPU time of small requests. The memory limit bounds the garbage when much memory is in use.
	gcPercent = 200
)

// Main runs the program with a configuration file until SIGTERM or SIGINT, and returns the exit status. Errors are
// written to standard error.
func Main(file string) int {
	cfg, err := config.Load(file)
	if err != nil {
		return fail(err)
	}
	// Distribution logs every request; our packages log the same events with more detail.
	logrus.SetOutput(io.Discard)
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return fail(err)
	}
	lines := slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})
	log, access := slog.New(server.LimitLog(lines, logBurst, logPeriod)), slog.New(slog.NewTextHandler(os.Stderr, nil))
	if limit, err := server.SetMemoryLimit(os.DirFS("/"), os.Getenv); err != nil {
		log.Warn("Cannot read the container's memory limit", "error", err)
	} else if limit > 0 {
		log.Info("Memory limit of Go", "bytes", limit)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	cfg.Limits.UnauthenticatedConnections = fitConnections(cfg.Limits.UnauthenticatedConnections, log)
	c, err := New(cfg, log, access)
	if err != nil {
		return fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills the process
	if err := c.Run(ctx); err != nil {
		return fail(err)
	}
	return 0
}

// fail prints err to standard error and returns exit status 1.
func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}
