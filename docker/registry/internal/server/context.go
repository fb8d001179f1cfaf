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

// requestContext is the context of a request. It makes net/http watch for the end of the client only once somebody waits for it.
type requestContext struct {
	context.Context
	conn *conn
}

// Done makes net/http watch for the end of the client. It is called to wait for the end of a context, or to derive another one.
func (c requestContext) Done() <-chan struct{} {
	c.conn.reads.watch()
	return c.Context.Done()
}

// Value returns the connection without a walk through the contexts of net/http.
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

// Authenticated removes the connection of a request from the limit for those without a credential. The server calls it for each
// request that its Checker finds good.
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
