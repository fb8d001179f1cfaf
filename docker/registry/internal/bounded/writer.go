// SPDX-License-Identifier: GPL-3.0-or-later

package bounded

import (
	"context"
	"errors"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/sirupsen/logrus"
)

// errNotKept is what a commit answers when the bytes were not stored.
var errNotKept = errors.New("bounded: not kept")

// errNoRoom says that what is asked for does not fit beside what cannot be dropped.
var errNoRoom = errors.New("no room below the limit")

// measureEvery is after how many bytes an upload's real blocks are looked at: some file systems allocate ahead.
const measureEvery = 8 << 20

// writer stores an upload as long as there is room; after that it swallows bytes, so that the client gets all of them.
type writer struct {
	store    *store
	path     string
	file     driver.FileWriter // nil when there is none, or none any more
	size     int64
	measure  int64 // size at which to measure next
	dropped  bool
	reserved int64 // guarded by store.mu
}

func (w *writer) Write(p []byte) (int, error) {
	w.size += int64(len(p))
	if w.dropped {
		return len(p), nil
	}
	if !w.reserve(w.size) {
		w.drop(errNoRoom)
	} else if _, err := w.file.Write(p); err != nil {
		w.drop(err)
	}
	return len(p), nil
}

// reserve makes room for the upload at the given size.
func (w *writer) reserve(size int64) bool {
	need := worst(w.path, size+size/1024) // and the file system's own map of it
	if size >= w.measure {
		w.measure = size + measureEvery
		need = max(need, w.store.blocks(w.path))
	}
	w.store.mu.Lock()
	more := need - w.reserved
	w.store.mu.Unlock()
	if more <= 0 {
		return true
	}
	if !w.store.reserve(more) {
		return false
	}
	w.store.mu.Lock()
	w.reserved += more
	w.store.mu.Unlock()
	return true
}

// drop gives up storing; on a full disk it makes room for the next one.
func (w *writer) drop(err error) {
	logrus.WithField("path", w.path).WithError(err).Warn("bounded: passed on, not kept")
	w.dropped = true
	unkept.Inc()
	if w.file != nil {
		_ = w.file.Cancel(context.Background()) // closes and unlinks; the directory goes with the upload
		w.file = nil
	}
	if freed := w.store.settle(w); full(err) {
		w.store.evict(freed)
	}
}

func (w *writer) Size() int64 { return w.size }

func (w *writer) Commit(ctx context.Context) error {
	if w.dropped {
		return errNotKept
	}
	err := w.file.Commit(ctx)
	if err != nil {
		w.drop(err)
	}
	return err
}

// Cancel answers nil after Close too: the registry removes the upload's directory, and with it the reservation, only
// then.
func (w *writer) Cancel(ctx context.Context) error {
	if w.file != nil {
		_ = w.file.Cancel(ctx)
		w.file = nil
	}
	w.dropped = true
	return nil
}

func (w *writer) Close() error {
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}
