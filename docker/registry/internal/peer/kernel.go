// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"net"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A socket gives access to the kernel's state of a connection, which a process starved of CPU may not have seen yet.
type socket struct{ raw syscall.RawConn }

// socketOf returns the socket of a connection, or nil if it has none.
func socketOf(c net.Conn) *socket {
	if with, ok := c.(syscall.Conn); ok {
		if raw, err := with.SyscallConn(); err == nil {
			return &socket{raw}
		}
	}
	return nil
}

// hasUnread reports whether the kernel has received bytes, or the end of the connection, that have not been read.
func (s *socket) hasUnread() bool { return s.poll(unix.POLLIN) }

// isConnected reports whether a connect has succeeded or failed.
func (s *socket) isConnected() bool { return s.poll(unix.POLLOUT) }

// poll reports whether one of the events has happened.
func (s *socket) poll(events int16) bool {
	if s == nil {
		return false
	}
	is := false
	_ = s.raw.Control(func(fd uintptr) { // closed: nothing more will arrive
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 0)
		is = err == nil && n > 0
	})
	return is
}

// sockets holds the sockets of one dial: one for each address that was tried.
type sockets struct {
	begin func() (stop func()) // called for the first socket

	mu   sync.Mutex
	all  []*socket
	stop func()
}

// add adds a socket. net.Dialer calls it before each connect.
func (s *sockets) add(_, _ string, raw syscall.RawConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, &socket{raw})
	if s.stop == nil {
		s.stop = s.begin()
	}
	return nil
}

// end stops the function that was started with the first socket.
func (s *sockets) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
	}
}

// isEmpty reports whether no address has been tried yet.
func (s *sockets) isEmpty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all) == 0
}

// isConnected reports whether one of the connects has succeeded or failed.
func (s *sockets) isConnected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.all, (*socket).isConnected)
}
