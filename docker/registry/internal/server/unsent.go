// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"math/bits"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// unsent is how many unsent bytes the kernel may hold for a slow client.
	unsent = 256 << 10
	// large is the size from which a response counts as large, in bytes.
	large = 256 << 10
	// maxUnlimited is the number of large responses that have no limit. The kernel holds up to 4 MiB of each.
	maxUnlimited = 8
	// unsentAll is roughly how many bytes the kernel may hold of all large responses together if there are more of
	// them.
	unsentAll = 16 << 20
	// unsentLeast is the minimum limit of one large response, in bytes.
	unsentLeast = 128 << 10
	// fast is the time below which a client that receives a sendChunk does not count as slow.
	fast = 250 * time.Millisecond
	// sendBufferLock is SOCK_SNDBUF_LOCK of linux/socket.h, which disables autotuning of the send buffer.
	sendBufferLock = 1
)

// largeAnswers counts the large responses being sent.
type largeAnswers struct{ size atomic.Int64 }

// limit returns how many unsent bytes each large response may have, or 0 for no limit. It changes only when their
// number passes a power of two.
func (c *largeAnswers) limit() int {
	size := c.size.Load()
	if size <= maxUnlimited {
		return 0
	}
	return max(unsentAll>>bits.Len64(uint64(size-1)), unsentLeast)
}

// A sendRate measures how fast a client receives. A new client counts as slow.
type sendRate struct {
	sent  int64
	spent time.Duration // time spent sending, without the time between responses
	fast  bool
}

// add adds n bytes sent in the given time, and reports whether they complete a chunk.
func (p *sendRate) add(n int64, within time.Duration) bool {
	p.sent += n
	p.spent += within
	if p.sent < sendChunk {
		return false
	}
	p.fast = p.spent < fast*time.Duration(p.sent/sendChunk)
	p.sent, p.spent = 0, 0
	return true
}

// A sendLimiter limits how much the kernel may hold of a connection's responses. It is used by one goroutine at a time.
type sendLimiter struct {
	sendRate
	largeAnswers *largeAnswers
	counted      bool // the response is counted in largeAnswers
	// Limits in force.
	unsent int // see limitUnsent
	buffer int // see limitBuffer
}

// prepare must be called before writing n bytes of a response.
func (s *sendLimiter) prepare(c net.Conn, n int64) {
	if n >= large && !s.counted {
		s.join(c)
	}
}

// written must be called after writing n bytes in the given time.
func (s *sendLimiter) written(c net.Conn, n int64, within time.Duration) {
	switch {
	case s.counted:
		if s.sendRate.add(n, within) {
			s.adjust(c)
		}
	case s.sent+n < large:
		s.sent += n
	default:
		s.join(c)
	}
}

// end must be called after a response.
func (s *sendLimiter) end() {
	s.sent = 0
	if s.counted {
		s.counted = false
		s.largeAnswers.size.Add(-1)
	}
}

// join counts the response as a large one.
func (s *sendLimiter) join(c net.Conn) {
	s.counted = true
	s.largeAnswers.size.Add(1)
	s.sent, s.spent = 0, 0
	s.adjust(c)
}

// adjust updates the kernel's limits if they have changed.
func (s *sendLimiter) adjust(c net.Conn) {
	limit := s.largeAnswers.limit()
	// Add half as much for bytes that were sent but not acknowledged: a client that waits for a CPU acknowledges
	// nothing.
	if buffer := limit + limit/2; buffer != s.buffer {
		s.buffer = buffer
		limitBuffer(c, buffer)
	}
	if !s.fast && (limit == 0 || limit > unsent) {
		limit = unsent
	}
	if limit != s.unsent {
		s.unsent = limit
		limitUnsent(c, limit)
	}
}

// limitUnsent limits the unsent bytes in the kernel; 0 means no limit.
func limitUnsent(c net.Conn, bytes int) {
	// Errors are ignored: without the option, the kernel only holds more.
	control(c, func(fd int) { _ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes) })
}

// limitBuffer limits the unacknowledged bytes in the kernel; 0 means no limit.
func limitBuffer(c net.Conn, bytes int) {
	control(c, func(fd int) {
		if bytes == 0 {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0) // fails only if the buffer was never locked
			return
		}
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, sendBufferLock) != nil {
			return // a kernel older than 5.14 could not remove the limit again
		}
		// The kernel limits this value to net.core.wmem_max and then doubles it. Errors are ignored: the kernel only
		// holds more.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, bytes/2)
	})
}

// queued returns the number of unacknowledged bytes in the kernel.
func queued(c net.Conn) (n int64) {
	control(c, func(fd int) {
		held, _ := unix.IoctlGetInt(fd, unix.SIOCOUTQ) // 0 if the kernel does not support it
		n = int64(held)
	})
	return n
}

// control calls f with the file descriptor of a TCP connection.
func control(c net.Conn, f func(fd int)) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return // closed: the next write fails
	}
	_ = raw.Control(func(fd uintptr) { f(int(fd)) }) // as above
}
