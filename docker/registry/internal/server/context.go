// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"net"
	"net/http"
)

type connKey struct{}

// withConn returns the context for the requests of a connection.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, connOf(c))
}

// requestContext is the context of a request. It makes net/http watch for a client that disconnects only when Done is
// called.
type requestContext struct {
	context.Context
	conn *conn
}

// Done makes net/http watch for a client that disconnects. It is called to wait for the end of the context, or to
// derive another context.
func (c requestContext) Done() <-chan struct{} {
	c.conn.reads.watch()
	return c.Context.Done()
}

// Value returns the connection without walking through the contexts of net/http.
func (c requestContext) Value(key any) any {
	if key == (connKey{}) {
		return c.conn
	}
	return c.Context.Value(key)
}

// withRequestContext returns a request with a requestContext. Outside of a server it returns the request itself.
func withRequestContext(r *http.Request) *http.Request {
	c := connFrom(r.Context())
	if c == nil {
		return r
	}
	return r.WithContext(requestContext{r.Context(), c})
}

// connFrom returns the connection of a context, or nil outside of a server.
func connFrom(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// Authenticated exempts the connection of a request from the limit for connections without a credential. The server
// calls it for each request whose credential its Checker accepts.
func Authenticated(ctx context.Context) {
	if c := connFrom(ctx); c != nil && !c.admitted.Swap(true) {
		c.conns.authenticated(c)
	}
}

// Remote returns the address of a request's client, or nil outside of a server.
func Remote(ctx context.Context) net.Addr {
	if c := connFrom(ctx); c != nil {
		return c.RemoteAddr()
	}
	return nil
}
