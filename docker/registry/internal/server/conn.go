// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"bytes"
	"container/list"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// sendChunk is how many bytes a client must receive within the send timeout.
	sendChunk = 1 << 20
	// headerLines is the maximum number of header lines of a request. Each takes about 100 bytes more in memory than on
	// the wire.
	headerLines = 128
	// linger is how long a connection is read after an early response. If it were closed with unread bytes, the kernel
	// would send a reset, and clients would lose the response.
	linger      = time.Second
	lingerBytes = 256 << 10
	// tlsHandshake is the first byte of a TLS connection. No HTTP request begins with it.
	tlsHandshake = 0x16
)

// A timedConn is a TCP connection whose client must receive each chunk within a time limit.
type timedConn struct {
	net.Conn
	timeout  time.Duration
	extended atomic.Int64 // Unix nanoseconds at which the deadline was last moved; 0 if it must be moved
	explicit atomic.Bool  // a caller has set a deadline, which is kept
	written  int64        // used by one goroutine at a time
	taken    int64        // how much of it the client had received when the deadline was last moved
	reads    readState
	sender   sendLimiter
}

// extendDeadline moves the write deadline at most eight times per timeout, since each move resets a timer.
func (c *timedConn) extendDeadline(now time.Time) {
	if c.timeout <= 0 || c.explicit.Load() {
		return
	}
	if last := c.extended.Load(); last != 0 && now.UnixNano()-last < int64(c.timeout/8) {
		return
	}
	_ = c.Conn.SetWriteDeadline(now.Add(c.timeout)) // if the connection is closed, the write fails
	c.extended.Store(now.UnixNano())
	c.taken = c.written - queued(c.Conn)
}

// noteWritten counts bytes that were written since began. It reports whether the write must be retried: the deadline
// has passed, but the client is still receiving. The kernel may hold megabytes that the client must receive before
// there is room for more.
func (c *timedConn) noteWritten(n int64, began time.Time, err error) (again bool) {
	c.written += n
	c.sender.written(c.Conn, n, time.Since(began))
	if !errors.Is(err, os.ErrDeadlineExceeded) || c.explicit.Load() || c.written-queued(c.Conn) <= c.taken {
		return false
	}
	c.extended.Store(0)
	return true
}

// SetWriteDeadline sets a write deadline that replaces the time limit per chunk. The zero time restores the time limit.
func (c *timedConn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() && !c.explicit.Load() {
		return nil // net/http does this after each response; the next write moves the TCP deadline
	}
	c.explicit.Store(!t.IsZero())
	c.extended.Store(0)
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline sets the read and the write deadline.
func (c *timedConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite closes the writing side of the connection.
func (c *timedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Write writes b in chunks of sendChunk bytes.
func (c *timedConn) Write(b []byte) (n int, err error) {
	c.sender.prepare(c.Conn, int64(len(b)))
	for {
		began := time.Now()
		c.extendDeadline(began)
		m, err := c.Conn.Write(b[n:min(len(b), n+sendChunk)])
		n += m
		if again := c.noteWritten(int64(m), began, err); err != nil && !again || n == len(b) {
			return n, err
		}
	}
}

// buffers holds buffers for content that is not a file.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// ReadFrom sends files with sendfile, one chunk at a time.
func (c *timedConn) ReadFrom(r io.Reader) (n int64, err error) {
	limited, ok := r.(*io.LimitedReader)
	to, isTCP := c.Conn.(io.ReaderFrom)
	source := r
	if ok {
		source = limited.R
	}
	if _, isFile := source.(*os.File); !isFile || !isTCP {
		buffer := buffers.Get().(*[64 << 10]byte)
		defer buffers.Put(buffer)
		return io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{r}, buffer[:])
	}
	if !ok {
		limited = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	c.sender.prepare(c.Conn, limited.N)
	for limited.N > 0 {
		began := time.Now()
		c.extendDeadline(began)
		// net uses sendfile only for a file in a single LimitedReader.
		chunk := &io.LimitedReader{R: limited.R, N: min(limited.N, sendChunk)}
		want := chunk.N
		m, err := to.ReadFrom(chunk)
		n += m
		limited.N -= m
		if again := c.noteWritten(m, began, err); !again && (err != nil || m < want) {
			return n, err
		}
	}
	return n, nil
}

// A conn is a client's connection. It inspects what the client sends before net/http does: net/http limits only the
// bytes of a header, and answers a TLS hello only after the first line feed in it.
type conn struct {
	*timedConn
	stream  net.Conn // the TCP connection, or TLS on top of it
	secure  *tls.Conn
	timeout time.Duration // for a TLS handshake
	log     *slog.Logger
	observe func(Event)
	conns   *connections

	admitted atomic.Bool // has sent a valid credential; saves locking conns
	request  Description // of the current request

	// Guarded by connections.mu.
	place          *list.Element
	waits          time.Time // since this time
	known, dropped bool

	// Used by Read only, in one goroutine at a time.
	begun    bool
	ended    bool // answered before net/http saw the request
	anything bool // no more inspection: this is the rest of a refused request
	header   headerScanner
}

// Read reads from the client. It returns io.EOF after an early response.
func (c *conn) Read(b []byte) (int, error) {
	if c.ended {
		return 0, io.EOF
	}
	if len(b) == 1 && !c.reads.await() { // net/http's background read
		return 0, os.ErrDeadlineExceeded
	}
	n, err := c.stream.Read(b)
	if n == 0 || c.anything {
		return n, err
	}
	if !c.begun {
		c.begun = true
		if c.secure == nil && b[0] == tlsHandshake {
			// containerd falls back to plain HTTP if the response to its hello begins with "HTTP/".
			c.observe(TLSHello)
			c.reject(http.StatusBadRequest, "UNSUPPORTED", "this port speaks plain HTTP, not TLS")
			return 0, io.EOF
		}
	}
	if c.header.scan(b[:n]) > headerLines {
		c.reject(http.StatusRequestHeaderFieldsTooLarge, "UNSUPPORTED", fmt.Sprintf("the header has more than %d lines", headerLines))
		return 0, io.EOF
	}
	c.anything = c.header.refused
	if c.header.whole && !c.admitted.Load() {
		c.conns.busy(c) // before net/http reports StateActive
	}
	return n, err
}

// Write writes to the client.
func (c *conn) Write(b []byte) (int, error) { return c.stream.Write(b) }

// Close closes the connection.
func (c *conn) Close() error {
	c.reads.watch() // wakes a read that net/http has just started
	return c.stream.Close()
}

// SetReadDeadline sets the read deadline.
func (c *conn) SetReadDeadline(t time.Time) error { return c.stream.SetReadDeadline(t) }

// SetWriteDeadline sets the write deadline.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }

// SetDeadline sets both deadlines.
func (c *conn) SetDeadline(t time.Time) error { return c.stream.SetDeadline(t) }

// CloseWrite closes the writing side of the connection, with a TLS alert if it uses TLS.
func (c *conn) CloseWrite() error {
	if half, ok := c.stream.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// hasUnread reports whether the kernel has received bytes that the program has not read.
func (c *conn) hasUnread() (yes bool) {
	control(c.timedConn.Conn, func(fd int) {
		n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
		yes = err == nil && n > 0
	})
	return yes
}

// abort closes the connection without a TLS alert, which could block.
func (c *conn) abort() { _ = c.timedConn.Conn.Close() }

// reject sends an error before net/http has seen a request, and waits until the client has read it.
func (c *conn) reject(status int, code, message string) {
	c.ended = true
	body := errorBody(code, message)
	_, err := fmt.Fprintf(c.stream, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"+
		"Connection: close\r\n\r\n%s", status, http.StatusText(status), len(body), body)
	if err == nil {
		c.lingerClose()
	}
}

// lingerClose closes the writing side, and reads until the client closes the connection or a time limit expires.
func (c *conn) lingerClose() {
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(linger))
	_, _ = io.CopyN(io.Discard, c.stream, lingerBytes) // waits for the end of the connection
}

// plainConn is a plain HTTP connection, on which net/http sends files with sendfile.
type plainConn struct{ *conn }

// tlsConn is a TLS connection. net/http does the handshake only for a bare *tls.Conn, so tlsConn does it before the
// first request.
type tlsConn struct{ *conn }

// ReadFrom hides timedConn.ReadFrom, since content must be encrypted.
func (c tlsConn) ReadFrom(r io.Reader) (int64, error) {
	buffer := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{c.secure}, struct{ io.Reader }{r}, buffer[:])
}

// ConnectionState does the handshake and returns its result.
func (c tlsConn) ConnectionState() tls.ConnectionState {
	_ = c.secure.SetDeadline(time.Now().Add(c.timeout))
	err := c.secure.Handshake()
	_ = c.secure.SetDeadline(time.Time{})
	if err != nil {
		c.handshakeFailed(err)
	}
	return c.secure.ConnectionState()
}

// handshakeFailed closes a connection after a failed handshake. A client that speaks plain HTTP gets an error response.
func (c tlsConn) handshakeFailed(err error) {
	c.ended = true
	record, ok := errors.AsType[tls.RecordHeaderError](err)
	if ok && record.Conn != nil && bytes.ContainsAny(record.RecordHeader[:1], "GHPOCDT") {
		c.stream = c.timedConn
		c.reject(http.StatusBadRequest, "UNSUPPORTED", "this port speaks TLS, not plain HTTP")
		return
	}
	c.log.Warn("TLS handshake failed", "remote", c.RemoteAddr().String(), "error", err)
}

// headerScanner counts the header lines of requests.
type headerScanner struct {
	lines   int     // of the current request
	length  int     // of the current line
	last    byte    // of the current line
	method  [5]byte // beginning of the request line
	refused bool    // the last request is neither GET nor HEAD, so a body may follow
	whole   bool    // the bytes scanned so far end with the end of a header
}

// scan scans bytes that were read. It returns the maximum number of lines of the headers in them.
func (s *headerScanner) scan(b []byte) (most int) {
	s.whole = false
	for {
		i := bytes.IndexByte(b, '\n')
		part := b
		if i >= 0 {
			part = b[:i]
		}
		if s.lines == 0 && s.length < len(s.method) {
			copy(s.method[s.length:], part)
		}
		s.length += len(part)
		if len(part) > 0 {
			s.last = part[len(part)-1]
		}
		if i < 0 {
			return max(most, s.lines)
		}
		if s.length == 0 || s.length == 1 && s.last == '\r' {
			if s.lines > 0 && string(s.method[:4]) != "GET " && string(s.method[:]) != "HEAD " {
				s.refused, s.whole = true, true
				return most
			}
			s.whole = s.lines > 0 && i+1 == len(b)
			s.lines = 0
		} else {
			s.lines++
			most = max(most, s.lines)
		}
		s.length, s.last, b = 0, 0, b[i+1:]
	}
}
