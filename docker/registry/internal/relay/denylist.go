// SPDX-License-Identifier: GPL-3.0-or-later

package relay

import (
	"sync"
	"time"
)

const (
	// denyTime is how long a member that sent wrong bytes for a key is not asked for it again.
	denyTime = 10 * time.Minute
	// maxDenied is the maximum number of entries.
	maxDenied = 1024
)

// denylist records which members sent wrong bytes for which keys.
type denylist struct {
	mu    sync.Mutex
	until map[[2]string]time.Time // by key and member
}

// add denies a member for a key.
func (d *denylist) add(key, member string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if d.until == nil || len(d.until) >= maxDenied {
		kept := map[[2]string]time.Time{}
		for k, until := range d.until {
			if now.Before(until) && len(kept) < maxDenied/2 {
				kept[k] = until
			}
		}
		d.until = kept
	}
	d.until[[2]string{key, member}] = now.Add(denyTime)
}

// has reports whether a member is denied for a key.
func (d *denylist) has(key, member string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.until) == 0 {
		return false
	}
	until, ok := d.until[[2]string{key, member}]
	return ok && time.Now().Before(until)
}
