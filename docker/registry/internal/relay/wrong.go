// SPDX-License-Identifier: GPL-3.0-or-later

package relay

import (
	"sync"
	"time"
)

const (
	// wrongFor is how long a member that sent wrong bytes is not asked for them again.
	wrongFor = 10 * time.Minute
	// wrongLimit is how many of these are remembered.
	wrongLimit = 1024
)

// wrong remembers which members sent wrong bytes under which keys.
type wrong struct {
	mu    sync.Mutex
	until map[[2]string]time.Time // by key and member
}

func (w *wrong) add(key, member string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if w.until == nil || len(w.until) >= wrongLimit {
		kept := map[[2]string]time.Time{}
		for k, until := range w.until {
			if now.Before(until) && len(kept) < wrongLimit/2 {
				kept[k] = until
			}
		}
		w.until = kept
	}
	w.until[[2]string{key, member}] = now.Add(wrongFor)
}

func (w *wrong) has(key, member string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.until) == 0 {
		return false
	}
	until, ok := w.until[[2]string{key, member}]
	return ok && time.Now().Before(until)
}
