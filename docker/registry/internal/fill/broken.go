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

// RelayParameter is the parameter of a hop's URI that names the relay which assembles the body. A replica that does not know it
// ignores it.
const RelayParameter = "relay"

// Codes of the errors by which a replica refuses the rest of a relay's body.
const (
	CodeWrong  = "RELAY_WRONG"  // what it has sent so far may be wrong
	CodeBroken = "RELAY_BROKEN" // its fill has failed twice
)

const (
	// maxBroken is how many relays are remembered.
	maxBroken = 4096
	// maxRelayName is how long the name of a relay may be.
	maxRelayName = 64
)

// brokenRelays remembers the relays whose body a failed fill has cut. The connection just ends, as it does when this replica dies,
// so the other replica learns the cause only by asking for the rest.
type brokenRelays struct {
	mu     sync.Mutex
	byName map[string]string // the code of the refusal; empty: the rest may be asked for once more
	order  []string          // oldest first
}

// add notes that the fill of a relay has failed.
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

// code returns why the rest of a relay is refused, or nothing if it is not.
func (b *brokenRelays) code(name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.byName[name]
}

// relayName returns the name of the relay that sent a request, or nothing if none did.
func relayName(r *http.Request) string {
	if _, isHop := peer.FromContext(r.Context()); !isHop {
		return ""
	}
	if name := r.URL.Query().Get(RelayParameter); len(name) <= maxRelayName {
		return name
	}
	return ""
}

// noteBroken notes that a relay was cut because its fill has failed. It does nothing for other requests and results.
func (h *Handler) noteBroken(r *http.Request, g *store.Growing) {
	name := relayName(r)
	if name == "" {
		return
	}
	if state, cause := g.State(); state == store.Failed && !errors.Is(cause, errClosed) {
		h.broken.add(name, cause)
	}
}

// refuseBroken refuses to send the rest of a relay if its fill has failed for good, and reports whether it has refused.
func (h *Handler) refuseBroken(w http.ResponseWriter, r *http.Request, q route.Request) bool {
	name := relayName(r)
	if name == "" {
		return false
	}
	code := h.broken.code(name)
	if code == "" {
		return false
	}
	h.opts.Log.Info("The rest of a relay is refused, since its fill failed", "digest", q.Digest, "code", code)
	server.SetResult(r.Context(), resultError)
	server.WriteError(w, r, http.StatusBadGateway, code, "the fill of what was sent so far has failed")
	return true
}
