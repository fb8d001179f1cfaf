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
	// unsent is how many bytes the kernel takes of an answer to a slow client before it can send them.
	unsent = 256 << 10
	// large is how many bytes of an answer make it count.
	large = 256 << 10
	// maxUnlimited is how many large answers have no limit. The kernel takes up to 4 MiB of each.
	maxUnlimited = 8
	// unsentAll is about how many bytes it takes of all of them together, if they are more.
	unsentAll = 16 << 20
	// unsentLeast is how many it takes of each of very many.
	unsentLeast = 128 << 10
	// fast is the time for a sendChunk below which a client is not slow.
	fast = 250 * time.Millisecond
	// sendBufferLock is SOCK_SNDBUF_LOCK of linux/socket.h: the send buffer does not grow by itself.
	sendBufferLock = 1
)

// largeAnswers counts the large answers that are being sent.
type largeAnswers struct{ size atomic.Int64 }

// limit returns how many unsent bytes each of them may have, or 0 for no limit. It changes only when their number passes a power
// of two.
func (c *largeAnswers) limit() int {
	size := c.size.Load()
	if size <= maxUnlimited {
		return 0
	}
	return max(unsentAll>>bits.Len64(uint64(size-1)), unsentLeast)
}

// A sendRate measures how fast a client takes what it is sent. A new client counts as slow.
type sendRate struct {
	sent  int64
	spent time.Duration // on sending it, without what passes between answers
	fast  bool
}

// add adds bytes that were sent within some time, and reports whether they complete a chunk.
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

// A sendLimiter limits how much the kernel takes of a connection's answers. One goroutine at a time uses it.
type sendLimiter struct {
	sendRate
	largeAnswers *largeAnswers
	counted      bool // largeAnswers counts the answer
	// In force.
	unsent int // see limitUnsent
	buffer int // see limitBuffer
}

// prepare prepares for n bytes of an answer.
func (s *sendLimiter) prepare(c net.Conn, n int64) {
	if n >= large && !s.counted {
		s.join(c)
	}
}

// written adds bytes that were written within some time.
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

// end ends an answer.
func (s *sendLimiter) end() {
	s.sent = 0
	if s.counted {
		s.counted = false
		s.largeAnswers.size.Add(-1)
	}
}

// join begins a large answer.
func (s *sendLimiter) join(c net.Conn) {
	s.counted = true
	s.largeAnswers.size.Add(1)
	s.sent, s.spent = 0, 0
	s.adjust(c)
}

// adjust sets the limits of the kernel if they have changed.
func (s *sendLimiter) adjust(c net.Conn) {
	limit := s.largeAnswers.limit()
	// Half as many again for what was sent and not confirmed: a client that has no processor for a while confirms nothing.
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

// limitUnsent sets how many bytes the kernel takes of a connection before it can send them, 0 for no limit.
func limitUnsent(c net.Conn, bytes int) {
	// A kernel without the option only takes more.
	control(c, func(fd int) { _ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes) })
}

// limitBuffer sets how many bytes the kernel holds of a connection that the client has not confirmed, 0 for no limit.
func limitBuffer(c net.Conn, bytes int) {
	control(c, func(fd int) {
		if bytes == 0 {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0) // it fails only where nothing was locked
			return
		}
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, sendBufferLock) != nil {
			return // before Linux 5.14 the limit could not be taken back
		}
		// The kernel sets twice as much, at most twice net.core.wmem_max. Without it, it only holds more.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, bytes/2)
	})
}

// queued returns how many bytes the kernel holds of a connection that its client has not confirmed.
func queued(c net.Conn) (n int64) {
	control(c, func(fd int) {
		held, _ := unix.IoctlGetInt(fd, unix.SIOCOUTQ) // 0 where the kernel does not say
		n = int64(held)
	})
	return n
}

// control calls f with the descriptor of a TCP connection.
func control(c net.Conn, f func(fd int)) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return // closed: the next write says so
	}
	_ = raw.Control(func(fd uintptr) { f(int(fd)) }) // the same
}
