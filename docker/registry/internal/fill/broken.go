// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"errors"
	"net/http"
	"sync"

	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/server"
	"pullthrough.registry_cache/docker/registry/internal/store"
)

// RelayParameter is the query parameter of a hop that identifies the relay for which the body is requested. Older
// replicas ignore it.
const RelayParameter = "relay"

// Error codes with which a replica refuses to send the rest of a body to a relay.
const (
	CodeWrong  = "RELAY_WRONG"  // the bytes sent so far may be wrong
	CodeBroken = "RELAY_BROKEN" // the fill has failed twice
)

const (
	// maxBroken is the maximum number of relays to remember.
	maxBroken = 4096
	// maxRelayName is the maximum length of a relay's name, in bytes.
	maxRelayName = 64
)

// brokenRelays remembers the relays whose body was cut by a failed fill. The other replica only sees the connection
// end, as if this replica had died. It learns the cause when it asks for the rest.
type brokenRelays struct {
	mu     sync.Mutex
	byName map[string]string // error code; empty if the rest may be requested once more
	order  []string          // oldest first
}

// add records that the fill of a relay has failed.
func (b *brokenRelays) add(name string, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	code, again := b.byName[name]
	switch {
	case isWrong(cause):
		code = CodeWrong
	case again && code == "":
		code = CodeBroken
	}
	if b.byName == nil {
		b.byName = map[string]string{}
	}
	if b.byName[name] = code; again {
		return
	}
	if b.order = append(b.order, name); len(b.order) > maxBroken {
		delete(b.byName, b.order[0])
		b.order = b.order[1:]
	}
}

// code returns the error code with which to refuse the rest of a relay's body, or "".
func (b *brokenRelays) code(name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.byName[name]
}

// relayName returns the name of the relay that sent a request, or "".
func relayName(r *http.Request) string {
	if _, isHop := peer.FromContext(r.Context()); !isHop {
		return ""
	}
	if name := r.URL.Query().Get(RelayParameter); len(name) <= maxRelayName {
		return name
	}
	return ""
}

// noteBroken records that a relay was cut because its fill has failed. It does nothing if r is not from a relay or g
// has not failed.
func (h *Handler) noteBroken(r *http.Request, g *store.Growing) {
	name := relayName(r)
	if name == "" {
		return
	}
	if state, cause := g.State(); state == store.Failed && !errors.Is(cause, errClosed) {
		h.broken.add(name, cause)
	}
}

// refuseBroken refuses to send the rest of a relay's body if its fill has failed permanently. It reports whether it
// wrote a response.
func (h *Handler) refuseBroken(w http.ResponseWriter, r *http.Request, q route.Request) bool {
	name := relayName(r)
	if name == "" {
		return false
	}
	code := h.broken.code(name)
	if code == "" {
		return false
	}
	h.opts.Log.Info("Refused to send the rest of a relay: its fill failed", "digest", q.Digest, "code", code)
	server.SetResult(r.Context(), resultError)
	server.WriteError(w, r, http.StatusBadGateway, code, "the fill that sent the first bytes has failed")
	return true
}
