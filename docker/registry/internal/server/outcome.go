// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"time"
)

// A Description describes a request and its result for metrics. The server does not interpret it. It is empty for a
// request that the server refused.
type Description struct {
	Upstream, Kind, Result string
}

// An Outcome describes a finished request.
type Outcome struct {
	Description
	Status    int           // 0: the client disconnected before the response
	Bytes     int64         // of the response body
	FirstByte time.Duration // time until the response began
	Cut       bool          // the body is incomplete
}

// Describe sets the description of a request, whose result SetResult may replace. Only the request's goroutine may call
// it, since the description belongs to the connection, which serves one request at a time.
func Describe(ctx context.Context, d Description) {
	if c := connFrom(ctx); c != nil {
		c.request = d
	}
}

// SetResult sets the result of a request. Only the request's goroutine may call it.
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
