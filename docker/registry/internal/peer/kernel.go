// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"net"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A socket is asked what the kernel knows of it. A process that is starved may not have seen it yet.
type socket struct{ raw syscall.RawConn }

// socketOf returns the socket of a connection, nil if it has none.
func socketOf(c net.Conn) *socket {
	if with, ok := c.(syscall.Conn); ok {
		if raw, err := with.SyscallConn(); err == nil {
			return &socket{raw}
		}
	}
	return nil
}

// hasUnread reports whether bytes, or the end of the connection, have come that were not read.
func (s *socket) hasUnread() bool { return s.poll(unix.POLLIN) }

// isConnected reports whether it is known what has become of a connect, or it has not begun.
func (s *socket) isConnected() bool { return s.poll(unix.POLLOUT) }

func (s *socket) poll(events int16) bool {
	if s == nil {
		return false
	}
	is := false
	_ = s.raw.Control(func(fd uintptr) { // closed: nothing comes any more
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 0)
		is = err == nil && n > 0
	})
	return is
}

// sockets are those of one connect: one for each address that was tried so far.
type sockets struct {
	begin func() (stop func()) // called for the first one

	mu   sync.Mutex
	all  []*socket
	stop func()
}

// add is what net.Dialer calls before each connect.
func (s *sockets) add(_, _ string, raw syscall.RawConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, &socket{raw})
	if s.stop == nil {
		s.stop = s.begin()
	}
	return nil
}

// end stops what the first socket has begun.
func (s *sockets) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
	}
}

func (s *sockets) isEmpty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all) == 0
}

func (s *sockets) isConnected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.all, (*socket).isConnected)
}
