// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// plainWriter writes a file at its final path. Distribution's proxy mode does not use it.
type plainWriter struct {
	store *Store
	file  *os.File
	node  *node
	size  int64
	state string // why writes fail
}

// plainWriter returns a writer of a file. It truncates the file unless add is set.
func (s *Store) plainWriter(p string, add bool) (w *plainWriter, err error) {
	err = s.withRoom(maxCharge(p, 0)+block, func(reserved *int64) error {
		s.tree.Lock()
		opened, finish, err := s.plainFile(p, add, reserved)
		s.tree.Unlock()
		finish()
		w = opened
		return err
	})
	return w, err
}

// plainFile opens the file of a plainWriter. The caller holds tree.
func (s *Store) plainFile(p string, add bool, reserved *int64) (w *plainWriter, finish func(), err error) {
	finish = func() {}
	s.mu.Lock()
	n := s.nodes[p]
	s.mu.Unlock()
	if n == nil || !add || n.dir {
		if finish, err = s.clearPath(p, reserved); err != nil {
			return nil, finish, err
		}
		n = nil
	}
	var f *os.File
	err = s.inDirectory(p, func() (err error) {
		f, err = os.OpenFile(s.diskPath(p), os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, 0o660)
		return err
	})
	if err != nil {
		return nil, finish, err
	}
	fi, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, finish, err
	}
	if n == nil {
		n = &node{path: p}
		s.addNode(n, 0, reserved)
	}
	s.mu.Lock()
	s.retainFDLocked(n)
	if n.blob == nil {
		s.attachLocked(n, contentOf(p, nil))
	}
	s.mu.Unlock()
	return &plainWriter{store: s, file: f, node: n, size: fi.Size()}, finish, nil
}

// Write appends bytes to the file.
func (w *plainWriter) Write(p []byte) (int, error) {
	if w.state != "" {
		return 0, errors.New("already " + w.state)
	}
	if !w.store.extend(w.node, w.size+int64(len(p)), true) {
		return 0, driverError("", errNoRoom)
	}
	n, err := w.file.Write(p)
	w.size += int64(n)
	return n, driverError("", err)
}

// Size returns the size of the file.
func (w *plainWriter) Size() int64 { return w.size }

// Close closes the file.
func (w *plainWriter) Close() error {
	if w.state == "closed" || w.state == "cancelled" {
		return errors.New("already " + w.state)
	}
	w.state = "closed"
	if fi, err := w.file.Stat(); err == nil {
		w.store.mu.Lock()
		w.store.setChargeLocked(w.node, charge(fi))
		w.store.mu.Unlock()
	}
	err := w.file.Close()
	w.store.releaseFD(w.node)
	return err
}

// Cancel closes and removes the file.
func (w *plainWriter) Cancel(context.Context) error {
	if w.state == "closed" || w.state == "cancelled" {
		return errors.New("already " + w.state)
	}
	w.state = "cancelled"
	_ = w.file.Close()
	w.store.releaseFD(w.node)
	return driverError("", w.store.removePath(w.node.path))
}

// Commit flushes the file to disk.
func (w *plainWriter) Commit(context.Context) error {
	if w.state != "" {
		return errors.New("already " + w.state)
	}
	w.state = "committed"
	return driverError("", w.file.Sync())
}

// extend charges a file for the blocks of a given size before they are written. It reports whether there was room.
func (s *Store) extend(n *node, size int64, evict bool) bool {
	const step = 1 << 20
	need := roundUp(size + size/1024)
	s.mu.Lock()
	more := need - n.charge
	s.mu.Unlock()
	if more <= 0 {
		return true
	}
	room := s.take
	if evict {
		room = s.reserve
	}
	if size > step && room(more+step) {
		more += step // fewer calls
	} else if !room(more) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setChargeLocked(n, n.charge+more)
	s.spendLocked(more, &more)
	return true
}
