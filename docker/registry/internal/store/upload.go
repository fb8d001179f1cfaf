// SPDX-License-Identifier: GPL-3.0-or-later

package store

import (
	"context"
	"errors"

	"github.com/distribution/distribution/v3/registry/storage/driver"
)

// upload is a writer for distribution that writes into a Growing.
type upload struct {
	g     *Growing
	store *Store
	path  string // path of the upload
	own   bool   // the Growing was created for this upload
	off   int64
	over  string
}

// upload returns a writer for an upload. It writes into the Growing in the context, or into a new one.
func (u *Upstream) upload(ctx context.Context, p string) driver.FileWriter {
	w := &upload{store: u.store, path: p}
	if g, ok := ctx.Value(growingKey{}).(*Growing); ok && g.store == u.store {
		w.g = g
	} else {
		w.g, w.own = u.store.newGrowing("", -1), true
		w.g.unread = true
	}
	u.store.mu.Lock()
	u.store.growing[p] = w.g
	u.store.mu.Unlock()
	return w
}

// Write writes bytes into the Growing.
func (w *upload) Write(p []byte) (int, error) {
	if w.over != "" {
		return 0, errors.New("already " + w.over)
	}
	n, err := w.g.WriteAt(p, w.off)
	w.off += int64(n)
	return n, err
}

// Size returns the number of bytes written.
func (w *upload) Size() int64 { return w.off }

// Commit flushes the blob to disk. Readers do not wait for this.
func (w *upload) Commit(context.Context) error {
	if w.over != "" {
		return errors.New("already " + w.over)
	}
	w.g.Finish(nil)
	if _, err := w.g.State(); err != nil {
		return err
	}
	if w.g.Windowed() {
		return ErrNotKept
	}
	if err := w.g.sync(); err != nil {
		w.store.log.Warn("A blob is not stored", "digest", w.g.digest, "error", err)
		w.store.count.unkept.Add(1)
		w.g.mu.Lock()
		n := w.g.node
		w.g.mu.Unlock()
		if n != nil {
			w.store.removeFile(n)
		}
		return err
	}
	w.over = "committed"
	return nil
}

// Cancel ends the upload. If the Growing has readers, another upload may continue it.
func (w *upload) Cancel(context.Context) error {
	if w.over == "" {
		w.over = "cancelled"
	}
	w.detach()
	return nil
}

// Close ends the writing. Move and Stat still find the file until it is moved or deleted.
func (w *upload) Close() error {
	if w.over == "" {
		w.over = "closed"
	}
	if w.own {
		w.g.closeWriter()
	}
	return nil
}

// closeWriter closes the file descriptor of an upload without readers. It keeps the file.
func (g *Growing) closeWriter() {
	g.writing.Lock()
	defer g.writing.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.releaseLocked()
}

// detach removes the upload from the store.
func (w *upload) detach() {
	w.store.mu.Lock()
	if w.store.growing[w.path] == w.g {
		delete(w.store.growing, w.path)
	}
	w.store.mu.Unlock()
	if w.own {
		w.g.Close()
	}
}
