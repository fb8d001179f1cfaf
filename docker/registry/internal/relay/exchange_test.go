// SPDX-License-Identifier: GPL-3.0-or-later

package relay

import (
	"context"
	"net/http"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/peer"
)

// waits is a member that does not answer until its request is canceled, and is reported as silent.
func waits(ctx context.Context, _ http.Header, c peer.CallOptions) (*http.Response, error) {
	c.Silent()
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// TestSilentOwner checks that a silent owner is given up if it stays suspect, and waited for if it answers its probe.
func TestSilentOwner(t *testing.T) {
	r := newReplica(t, "b", "c", "self")
	r.does["b"], r.does["c"] = waits, content(r.blob, 1<<20)
	r.set("b", peer.Suspect)
	begun := time.Now()
	state, err := r.fetch(r.Relay)
	r.want("silent", state, err, true, "b, c")
	if took := time.Since(begun); took < suspectPatience || took > 10*suspectPatience {
		t.Errorf("given up after %v", took)
	}
	slow := newReplica(t, "b", "c", "self")
	slow.does["b"] = func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
		c.Silent()
		time.Sleep(2 * suspectPatience)
		return content(slow.blob, 1<<20)(ctx, h, c)
	}
	slow.set("b", peer.Suspect)
	time.AfterFunc(suspectPatience/2, func() { slow.set("b", peer.In) })
	state, err = slow.fetch(slow.Relay)
	slow.want("slow", state, err, true, "b")
}

// TestLargeError checks that a large error is not read, since no memory is reserved for it.
func TestLargeError(t *testing.T) {
	r := newReplica(t, "b", "c", "self")
	r.does["c"] = content(r.blob, 1<<20)
	r.does["b"] = func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
		if c.Reserve == nil {
			return status(http.StatusNotFound, "BLOB_UNKNOWN")(ctx, h, c)
		}
		return nil, c.Reserve(ctx, 1<<20)
	}
	state, err := r.fetch(r.Relay)
	r.want("large error", state, err, true, "b, c")
}
