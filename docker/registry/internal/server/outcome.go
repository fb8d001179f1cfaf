// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"time"
)

// A Description describes a request and its result for metrics. Its values mean nothing to the server. It is empty for a request
// that the server itself has refused.
type Description struct {
	Upstream, Kind, Result string
}

// An Outcome describes a request whose answer has ended.
type Outcome struct {
	Description
	Status    int           // 0: the client left before an answer
	Bytes     int64         // of the body
	FirstByte time.Duration // until the answer began
	Cut       bool          // the body is not whole
}

// Describe sets the description of a request, with a result that SetResult may replace. A connection serves one request at a time,
// and only the goroutine of the request may call it.
func Describe(ctx context.Context, d Description) {
	if c := connFrom(ctx); c != nil {
		c.request = d
	}
}

// SetResult sets the result of a request. The rule for callers is that of Describe.
func SetResult(ctx context.Context, result string) {
	if c := connFrom(ctx); c != nil {
		c.request.Result = result
	}
}

// descriptionOf returns the description of a request's context.
func descriptionOf(ctx context.Context) Description {
	if c := connFrom(ctx); c != nil {
		return c.request
	}
	return Description{}
}
