// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"strings"
	"sync"
	"time"
)

// noncesLimit is the maximum number of nonces, which take about 10 MB. If there are more hops within a minute, older
// hops are refused.
const noncesLimit = 1 << 17

// nonces remembers the nonces of verified requests until the requests expire, so that no request is served twice.
type nonces struct {
	limit int

	mu      sync.Mutex
	count   int
	seconds map[int64]map[string]struct{} // by the second of the request's time
	floor   int64                         // requests from this second or earlier are refused
}

func newNonces(limit int) *nonces {
	return &nonces{limit: limit, seconds: map[int64]map[string]struct{}{}}
}

// add adds a nonce. It returns a reason if the request must be refused, or "".
func (n *nonces) add(nonce string, at int64, now time.Time) Reason {
	if age := now.Sub(time.UnixMilli(at)); age > window || age < -window {
		return Time
	}
	second := at / 1000
	n.mu.Lock()
	defer n.mu.Unlock()
	if second <= n.floor {
		return Time
	}
	if _, seen := n.seconds[second][nonce]; seen {
		return Replayed
	}
	if n.seconds[second] == nil {
		n.expire(now)
		n.seconds[second] = map[string]struct{}{}
	}
	n.seconds[second][strings.Clone(nonce)] = struct{}{} // do not retain the whole header
	n.count++
	for n.count > n.limit {
		n.dropOldest()
	}
	return ""
}

// expire drops nonces whose requests are too old to be accepted.
func (n *nonces) expire(now time.Time) {
	for second, of := range n.seconds {
		if now.Sub(time.Unix(second+1, 0)) > window {
			n.count -= len(of)
			delete(n.seconds, second)
		}
	}
}

// dropOldest drops the oldest nonces. Afterwards, requests that could have one of them are refused.
func (n *nonces) dropOldest() {
	oldest := int64(-1)
	for second := range n.seconds {
		if oldest < 0 || second < oldest {
			oldest = second
		}
	}
	n.count -= len(n.seconds[oldest])
	delete(n.seconds, oldest)
	n.floor = max(n.floor, oldest)
}
