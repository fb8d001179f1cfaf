// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"time"
)

// A Description says what a request asks for and what became of it. The server gives it no meaning. It is empty for a request
// that the server has refused by itself.
type Description struct {
	Upstream, Kind, Result string
}

// An Outcome is what is known of a request when its answer has ended.
type Outcome struct {
	Description
	Status    int           // 0: the client left before an answer
	Bytes     int64         // of the body
	FirstByte time.Duration // until the answer began
	Cut       bool          // the body is not whole
}

// Describe sets what a request asks for, and what became of it if nothing else is said. A connection serves one request at a
// time, and only the goroutine of the request may call this.
func Describe(ctx context.Context, d Description) {
	if c := connFrom(ctx); c != nil {
		c.request = d
	}
}

// SetResult sets what became of a request, as Describe does.
func SetResult(ctx context.Context, result string) {
	if c := connFrom(ctx); c != nil {
		c.request.Result = result
	}
}

func descriptionOf(ctx context.Context) Description {
	if c := connFrom(ctx); c != nil {
		return c.request
	}
	return Description{}
}
