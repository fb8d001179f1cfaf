// SPDX-License-Identifier: GPL-3.0-or-later

// Package server has the program's listeners: for clients, with limits on what a stranger can cost, credentials, TLS and
// drain; and for metrics and the profiler.
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
	// closeNotice is how long clients with an open connection are answered with "Connection: close" after the program was told
	// to end, before connections without a request are closed.
	closeNotice = time.Second
	// handlerGrace is how long handlers have to return after their connections were cut.
	handlerGrace = 5 * time.Second
	// headerSlop is what net/http reads beyond its limit.
	headerSlop = 4096
	// internalConnections is the limit of the listeners for metrics and the profiler.
	internalConnections = 64
)

// An Event is an event that metrics count.
type Event string

// Events that a server reports.
const (
	ConnectionDropped   Event = "connection_dropped"   // an idle one without a credential, for want of room
	ConnectionRefused   Event = "connection_refused"   // a new one, for want of room
	TLSHello            Event = "tls_hello"            // on the plain port
	HandlerPanicked     Event = "handler_panicked"     //
	HandlerSilent       Event = "handler_silent"       // it returned without an answer
	CertificateReloaded Event = "certificate_reloaded" //
	CertificateFailed   Event = "certificate_failed"   // the files were changed, but hold no pair
)

// Limits protect a listener.
type Limits struct {
	HeaderBytes                int           // of request line and header
	HeaderTimeout              time.Duration // for them, and for a TLS handshake
	IdleTimeout                time.Duration // of a connection without a request
	SendTimeout                time.Duration // for each MiB that a client takes
	UnauthenticatedConnections int           // open ones that have shown no good credential
}

// Options configure a server for clients. Handler, Checker and Log are required.
type Options struct {
	Handler     http.Handler // what serves requests with a good credential, of GET and HEAD only
	Checker     Checker
	Ready       func() bool // for the probe /ready; nil: always
	Limits      Limits
	Certificate *Certificate  // nil: plain HTTP
	Drain       time.Duration // how long open transfers go on after the end of Run's context
	Log         *slog.Logger  // errors; see LimitLog
	Access      *slog.Logger  // requests, one of AccessEvery; nil: none
	AccessEvery int
	Observe     func(Event) // counts; nil: nothing is counted
	// Record is told of every request but probes, when its answer has ended; nil: nobody is.
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
	loopback     bool // no other listener is accepted
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
		return nil, errors.New("server: a checker is required; one that finds everything good lets everybody in")
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

// NewMetrics returns a server for metrics and probes. ready should be the Ready of the clients' server. The server asks for no
// credential.
func NewMetrics(handler http.Handler, ready func() bool, limits Limits, log *slog.Logger, observe func(Event)) *Server {
	limits.UnauthenticatedConnections = internalConnections
	s := newServer(limits, 0, log, observe)
	mux := http.NewServeMux()
	mux.Handle("/metrics", handler)
	s.probes.ready = ready
	s.http.Handler = &requestHandler{server: s, checker: allowAll{}, next: mux}
	return s
}

// NewProfiler returns a server for Go's profiler. It serves loopback addresses only.
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
	// One connection would carry many requests in HTTP/2, so that limits by connection would mean nothing.
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

// Ready reports whether the probe /ready succeeds. It does not while the program starts or drains.
func (s *Server) Ready() bool { return s.probes.isReady() }

// Run serves a listener until ctx ends, then drains: it closes the listener, lets open transfers go on for the drain time, and cuts
// those that are still open. It returns when nothing of the server runs any more. It returns an error if the listener failed or
// a handler does not return.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	if address, ok := l.Addr().(*net.TCPAddr); s.loopback && (!ok || !address.IP.IsLoopback()) {
		return errors.Join(fmt.Errorf("server: the profiler is not served on %s, which is no loopback address", l.Addr()), l.Close())
	}
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(&listener{l, s}) }()
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-served:
	}
	s.draining.Store(true)
	_ = l.Close() // it may have failed before
	if failed == nil {
		<-served
	}
	return errors.Join(failed, s.shutDown())
}

// shutDown waits for open transfers, and cuts those that are open after the drain time.
func (s *Server) shutDown() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.drain)
	defer cancel()
	s.conns.wait(ctx, closeNotice)
	if s.http.Shutdown(ctx) != nil {
		if n := s.conns.abortAll(); n > 0 {
			s.log.Warn("Connections were cut at the end of the drain time", "connections", n, "drain", s.drain)
		}
	}
	_ = s.http.Close() // every connection was closed or cut
	if !s.conns.wait(context.Background(), s.handlerGrace) {
		open, _ := s.conns.count()
		return fmt.Errorf("server: %d requests do not end", open)
	}
	return nil
}

// connStateChanged follows the states of connections in net/http.
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

// listener is a listener that makes a conn of every connection for which there is room.
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

// connOf returns the conn of a connection that net/http knows, or nil if it is another one.
func connOf(c net.Conn) *conn {
	switch c := c.(type) {
	case plainConn:
		return c.conn
	case tlsConn:
		return c.conn
	}
	return nil
}
