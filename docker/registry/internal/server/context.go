// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"net"
	"net/http"
)

type connKey struct{}

// withConn makes the contexts of a connection's requests know it.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, connOf(c))
}

// requestContext has net/http look for the client's end only once somebody waits for it.
type requestContext struct {
	context.Context
	conn *conn
}

// Done is called by all that wait for the end of a context, or derive another one.
func (c requestContext) Done() <-chan struct{} {
	c.conn.reads.watch()
	return c.Context.Done()
}

// Value finds the connection without a walk through net/http's contexts.
func (c requestContext) Value(key any) any {
	if key == (connKey{}) {
		return c.conn
	}
	return c.Context.Value(key)
}

// withRequestContext returns a request with a requestContext, itself outside of a server.
func withRequestContext(r *http.Request) *http.Request {
	c := connFrom(r.Context())
	if c == nil {
		return r
	}
	return r.WithContext(requestContext{r.Context(), c})
}

// connFrom returns the connection that a context knows, nil outside of a server.
func connFrom(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// Authenticated takes the connection of a request out of the limit for those without a credential. The server does so for
// each request that its Checker finds good.
func Authenticated(ctx context.Context) {
	if c := connFrom(ctx); c != nil && !c.admitted.Swap(true) {
		c.conns.authenticated(c)
	}
}

// Remote returns the address of a request's client, nil outside of a server.
func Remote(ctx context.Context) net.Addr {
	if c := connFrom(ctx); c != nil {
		return c.RemoteAddr()
	}
	return nil
}
