// SPDX-License-Identifier: GPL-3.0-or-later

// Package server has the HTTP servers of the program: for clients, with authentication, TLS, draining, and limits on
// what unauthenticated clients can use; and for metrics and the profiler.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync/atomic"
	"time"
)

const (
	// closeNotice is how long a stopping server answers requests on open connections with "Connection: close" before it
	// closes idle connections.
	closeNotice = time.Second
	// handlerGrace is how long handlers may take to return after their connections were cut.
	handlerGrace = 5 * time.Second
	// headerSlop is how many bytes net/http reads beyond its header limit.
	headerSlop = 4096
	// internalConnections is the connection limit for metrics and the profiler.
	internalConnections = 64
)

// An Event is an event that metrics count.
type Event string

// Events that a server reports.
const (
	ConnectionDropped   Event = "connection_dropped"   // an idle one without a credential, to make room
	ConnectionRefused   Event = "connection_refused"   // a new one, for lack of room
	TLSHello            Event = "tls_hello"            // on the plain port
	HandlerPanicked     Event = "handler_panicked"     //
	HandlerSilent       Event = "handler_silent"       // it returned without a response
	CertificateReloaded Event = "certificate_reloaded" //
	CertificateFailed   Event = "certificate_failed"   // the changed files are not a valid pair
)

// Limits protect a listener.
type Limits struct {
	HeaderBytes                int           // maximum size of request line and header
	HeaderTimeout              time.Duration // maximum time for these, and for a TLS handshake
	IdleTimeout                time.Duration // maximum time of a connection without a request
	SendTimeout                time.Duration // maximum time for each MiB that a client receives
	UnauthenticatedConnections int           // maximum number of open connections without a valid credential
}

// Options configure a server for clients. Handler, Checker and Log are required.
type Options struct {
	Handler     http.Handler // serves GET and HEAD requests with a valid credential
	Checker     Checker
	Ready       func() bool // for the probe /ready; nil: always
	Limits      Limits
	Certificate *Certificate  // nil: plain HTTP
	Drain       time.Duration // how long open transfers may continue after the end of Run's context
	Log         *slog.Logger  // errors; see LimitLog
	Access      *slog.Logger  // requests, one of AccessEvery; nil: none
	AccessEvery int
	Observe     func(Event) // called for each event; may be nil
	// Record, if not nil, is called for every finished request except probes.
	Record func(*http.Request, Outcome)
}

// A Server serves one listener.
type Server struct {
	http         http.Server
	conns        *connections
	largeAnswers largeAnswers
	limits       Limits
	tls          *tls.Config
	drain        time.Duration
	draining     atomic.Bool
	loopback     bool // serve loopback listeners only
	handlerGrace time.Duration
	probes       probes
	log          *slog.Logger
	observe      func(Event)
}

// New returns a server for clients.
func New(o Options) (*Server, error) {
	switch {
	case o.Handler == nil:
		return nil, errors.New("server: a handler is required")
	case o.Checker == nil:
		return nil, errors.New("server: a checker is required; to allow anonymous access, use one that accepts every credential")
	case o.Log == nil:
		return nil, errors.New("server: a log is required")
	}
	s := newServer(o.Limits, o.Drain, o.Log, o.Observe)
	if o.Certificate != nil {
		s.tls = &tls.Config{GetCertificate: o.Certificate.GetCertificate, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	}
	s.probes.ready = o.Ready
	s.http.Handler = &requestHandler{server: s, checker: o.Checker, next: o.Handler, access: newAccessLog(o.Access, o.AccessEvery), record: o.Record}
	return s, nil
}

// NewMetrics returns a server for metrics and probes, without authentication. ready should be the Ready method of the
// client server.
func NewMetrics(handler http.Handler, ready func() bool, limits Limits, log *slog.Logger, observe func(Event)) *Server {
	limits.UnauthenticatedConnections = internalConnections
	s := newServer(limits, 0, log, observe)
	mux := http.NewServeMux()
	mux.Handle("/metrics", handler)
	s.probes.ready = ready
	s.http.Handler = &requestHandler{server: s, checker: allowAll{}, next: mux}
	return s
}

// NewProfiler returns a server for Go's profiler. It refuses listeners that are not on a loopback address.
func NewProfiler(limits Limits, log *slog.Logger, observe func(Event)) *Server {
	limits.UnauthenticatedConnections = internalConnections
	s := newServer(limits, 0, log, observe)
	s.loopback = true
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	s.http.Handler = &requestHandler{server: s, checker: allowAll{}, next: mux}
	return s
}

func newServer(limits Limits, drain time.Duration, logger *slog.Logger, observe func(Event)) *Server {
	if observe == nil {
		observe = func(Event) {}
	}
	s := &Server{
		conns: newConnections(limits.UnauthenticatedConnections, observe), limits: limits, drain: drain, log: logger, observe: observe,
		handlerGrace: handlerGrace,
	}
	s.probes.draining = &s.draining
	var protocols http.Protocols
	// An HTTP/2 connection would carry many requests, which would bypass the limits on connections.
	protocols.SetHTTP1(true)
	s.http = http.Server{
		Protocols:                    &protocols,
		MaxHeaderBytes:               max(1, limits.HeaderBytes-headerSlop),
		ReadHeaderTimeout:            limits.HeaderTimeout,
		IdleTimeout:                  limits.IdleTimeout,
		ConnState:                    s.connStateChanged,
		ConnContext:                  withConn,
		ErrorLog:                     log.New(lineWriter{logger}, "", 0),
		DisableGeneralOptionsHandler: true,
	}
	return s
}

// Ready reports whether the probe /ready succeeds. It fails while the program is starting or draining.
func (s *Server) Ready() bool { return s.probes.isReady() }

// Run serves a listener until ctx is done, then drains: it closes the listener, lets open transfers continue for the
// drain time, and cuts those that are still open. It returns when all goroutines of the server have ended. It returns
// an error if the listener failed or a handler does not return.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	if address, ok := l.Addr().(*net.TCPAddr); s.loopback && (!ok || !address.IP.IsLoopback()) {
		return errors.Join(fmt.Errorf("server: the profiler requires a loopback address (got %s); for example 127.0.0.1:6060", l.Addr()), l.Close())
	}
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(&listener{l, s}) }()
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-served:
	}
	s.draining.Store(true)
	_ = l.Close() // it may already be closed
	if failed == nil {
		<-served
	}
	return errors.Join(failed, s.shutDown())
}

// shutDown waits for open transfers, and cuts those that are still open after the drain time.
func (s *Server) shutDown() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.drain)
	defer cancel()
	s.conns.wait(ctx, closeNotice)
	if s.http.Shutdown(ctx) != nil {
		if n := s.conns.abortAll(); n > 0 {
			s.log.Warn("Cut open connections at the end of the drain time", "connections", n, "drain", s.drain)
		}
	}
	_ = s.http.Close() // all connections are already closed
	if !s.conns.wait(context.Background(), s.handlerGrace) {
		open, _ := s.conns.count()
		return fmt.Errorf("server: %d request handlers did not return", open)
	}
	return nil
}

// connStateChanged tracks the states of connections in net/http.
func (s *Server) connStateChanged(c net.Conn, state http.ConnState) {
	connection := connOf(c)
	switch {
	case connection == nil:
	case state == http.StateActive:
		connection.reads.unwatch()
		s.conns.busy(connection)
	case state == http.StateIdle:
		connection.reads.watch()
		connection.sender.end()
		s.conns.idle(connection)
	case state == http.StateClosed, state == http.StateHijacked:
		connection.sender.end()
		s.conns.closed(connection)
	}
}

// listener wraps each accepted connection in a conn, and refuses connections for which there is no room.
type listener struct {
	net.Listener
	server *Server
}

// Accept returns the next connection for which there is room.
func (l *listener) Accept() (net.Conn, error) {
	for {
		tcp, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		s := l.server
		limitUnsent(tcp, unsent)
		w := &timedConn{Conn: tcp, timeout: s.limits.SendTimeout, sender: sendLimiter{largeAnswers: &s.largeAnswers, unsent: unsent}}
		c := &conn{timedConn: w, stream: w, timeout: s.limits.HeaderTimeout, log: s.log, observe: s.observe, conns: s.conns}
		if !s.conns.add(c) {
			_ = tcp.Close()
			continue
		}
		if s.tls == nil {
			return plainConn{c}, nil
		}
		c.secure = tls.Server(w, s.tls)
		c.stream = c.secure
		return tlsConn{c}, nil
	}
}

// connOf returns the conn behind a connection of net/http, or nil if there is none.
func connOf(c net.Conn) *conn {
	switch c := c.(type) {
	case plainConn:
		return c.conn
	case tlsConn:
		return c.conn
	}
	return nil
}
