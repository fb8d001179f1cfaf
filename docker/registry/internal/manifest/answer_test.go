// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
)

func TestLostClient(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 502},
		{errors.New("refused"), 502},
		{context.Canceled, 502},
		{fmt.Errorf("read: %w", context.DeadlineExceeded), 504},
		{os.ErrDeadlineExceeded, 504},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, 504},
		{&net.DNSError{IsTimeout: true}, 504},
	} {
		if got := failedAnswer(c.err); got.Status != c.want || got.Code != "UNAVAILABLE" {
			t.Errorf("%v: %+v", c.err, got)
		}
	}
}
