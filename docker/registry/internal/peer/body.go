// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"errors"
	"io"
)

// body is the body of a blob. Its exchange detects when no bytes arrive.
type body struct {
	io.ReadCloser
	x *exchange
}

// Read reads from the body. It returns an *Error if the rest does not arrive.
func (b *body) Read(into []byte) (int, error) {
	b.x.watch.arm()
	n, err := b.ReadCloser.Read(into)
	b.x.watch.disarm()
	if n > 0 {
		b.x.noteBytes()
	}
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		b.x.end()
		return n, err
	}
	err = b.x.brokenError(err)
	if _, ok := errors.AsType[*Error](err); ok && b.x.end() {
		b.x.m.peers.counts.cut.Add(1)
	}
	return n, err
}

// Close ends the exchange. If the body was not read to its end, this cancels the transfer.
func (b *body) Close() error {
	b.x.end()
	return b.ReadCloser.Close()
}
