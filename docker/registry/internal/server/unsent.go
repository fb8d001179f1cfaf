// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// unsent is how many bytes the kernel takes of an answer to a slow client before it can send them: 4 MiB without a limit.
	// A limit doubles the processor time of a fast client.
	unsent = 256 << 10
	// fast is the time for a sendChunk below which a client is not slow.
	fast = 250 * time.Millisecond
)

// A pace knows how fast a client takes what it is sent. Each is slow at first.
type pace struct {
	sent  int64
	spent time.Duration // on sending it, without what passes between answers
	fast  bool
}

// took counts bytes that were sent within some time, and reports whether the client is now slow that was fast, or the other
// way round.
func (p *pace) took(n int64, within time.Duration) (changed bool) {
	p.sent += n
	p.spent += within
	if p.sent < sendChunk {
		return false
	}
	was := p.fast
	p.fast = p.spent < fast*time.Duration(p.sent/sendChunk)
	p.sent, p.spent = 0, 0
	return p.fast != was
}

// limitUnsent sets how many bytes the kernel takes of a connection before it can send them; 0: as many as it likes.
func limitUnsent(c net.Conn, bytes int) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return // closed: the next write says so
	}
	// A kernel without the option only takes more.
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes) })
}
