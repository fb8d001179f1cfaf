// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Headers between replicas. Their names, and the fields v and nonce of a hop, must be the same in every version.
const (
	hopHeader      = "Registry-Cache-Hop"
	proofHeader    = "Registry-Cache-Proof"
	refusalHeader  = "Registry-Cache-Refusal"  // reason of a 401
	versionsHeader = "Registry-Cache-Versions" // versions that the answering replica supports, in a 505
)

const (
	// version is the protocol version of this program.
	version = "1"
	// window is the maximum clock skew between two replicas, and the maximum age of a request.
	window = time.Minute
	// onlyStore is the value of the field "only".
	onlyStore = "store"
	// upstreamOut is the value of the field "upstream".
	upstreamOut = "out"
)

// signedRequest lists the headers of a hop that its MAC covers. The handler sees no others.
var signedRequest = []string{"Accept", "Range"}

// A hop is the parsed header of a request between replicas.
type hop struct {
	version  string
	from, to string
	time     int64 // Unix milliseconds
	nonce    string
	store    bool // the receiver must not fetch
	out      bool // the sender considers the upstream down
	mac      string
}

// newNonce returns 128 random bits.
func newNonce() string {
	var b [nonceLimit / 2]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// String returns the value of the header.
func (h hop) String() string {
	text := "v=" + h.version + ", from=" + h.from + ", to=" + h.to + ", time=" + strconv.FormatInt(h.time, 10) + ", nonce=" + h.nonce
	if h.store {
		text += ", only=" + onlyStore
	}
	if h.out {
		text += ", upstream=" + upstreamOut
	}
	return text + ", mac=" + h.mac
}

// signedParts returns the parts of a request that the MAC covers.
func (h hop) signedParts(method, uri string, header http.Header) []string {
	limit := ""
	if h.store {
		limit = onlyStore
	}
	parts := []string{"registry-cache-hop", h.version, method, uri, h.from, h.to, strconv.FormatInt(h.time, 10), h.nonce, limit}
	parts = appendHeader(parts, header, signedRequest)
	if h.out {
		parts = append(parts, upstreamOut)
	}
	return parts
}

// appendHeader appends the values of the named header fields, as they are received.
func appendHeader(parts []string, header http.Header, names []string) []string {
	for _, name := range names {
		values := header[name]
		parts = append(parts, strconv.Itoa(len(values)))
		for _, value := range values {
			parts = append(parts, strings.TrimSpace(value))
		}
	}
	return parts
}

// selectHeaders returns a copy of a header with only the named fields.
func selectHeaders(header http.Header, names []string) http.Header {
	some := http.Header{}
	for _, name := range names {
		if values := header[name]; values != nil {
			some[name] = values
		}
	}
	return some
}

// parseHop parses the header of a hop. For an unknown version, it returns only the version and the nonce, which are
// sufficient for an answer. The reason is "" for a valid hop of the known version.
func parseHop(header, known string) (hop, Reason) {
	given, ok := parseFields(header)
	h := hop{version: given["v"], nonce: given["nonce"]}
	if !ok || !strings.HasPrefix(header, "v=") || !isVersion(h.version) || !isHex(h.nonce, nonceLimit) {
		return hop{}, Malformed
	}
	if h.version != known {
		return h, Version
	}
	h.from, h.to, h.mac = given["from"], given["to"], given["mac"]
	count := 6
	if limit, limited := given["only"]; limited {
		h.store = limit == onlyStore
		count++
		if !h.store {
			return hop{}, Malformed // this program does not know what the field means
		}
	}
	if state, said := given["upstream"]; said {
		h.out = state == upstreamOut
		count++
		if !h.out {
			return hop{}, Malformed
		}
	}
	at, err := strconv.ParseInt(given["time"], 10, 64)
	// Accept only the canonical form of a number, since the MAC covers the text that String returns.
	if err != nil || at < 0 || strconv.FormatInt(at, 10) != given["time"] {
		return hop{}, Malformed
	}
	h.time = at
	if len(given) != count || !isName(h.from) || !isName(h.to) || !isHex(h.mac, sumLimit) {
		return hop{}, Malformed
	}
	return h, ""
}

// isVersion reports whether a text is a valid version, which is a small number.
func isVersion(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == text
}
