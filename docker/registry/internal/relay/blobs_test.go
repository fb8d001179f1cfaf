// SPDX-License-Identifier: GPL-3.0-or-later

package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/fill"
	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/store"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

func TestOwnerSendsABlob(t *testing.T) {
	r := newReplica(t, "b", "self", "c")
	r.does["b"] = content(r.blob, 1<<20)
	state, err := r.fetch(r.Relay)
	r.want("whole", state, err, true, "b")
	if _, ok := r.part.Has("a", r.request().Digest); !ok || r.Bytes() != 1<<20 {
		t.Errorf("not stored; %d bytes are counted", r.Bytes())
	}
	if r.Owned(r.request()) {
		t.Error("it is owned")
	}
}

// TestMembersContinue uses members that interrupt a transfer, refuse, or are gone. Each continues at the byte where the last one
// stopped.
func TestMembersContinue(t *testing.T) {
	r := newReplica(t, "b", "c", "d", "self")
	r.does["b"] = content(r.blob, 1000)
	r.does["c"] = status(http.StatusServiceUnavailable, "UNAVAILABLE")
	r.does["d"] = content(r.blob, 1<<20)
	first := true
	whole := r.does["b"]
	r.does["b"] = func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
		if first {
			first = false
			return whole(ctx, h, c)
		}
		return nil, gone("b")
	}
	state, err := r.fetch(r.Relay)
	r.want("broken off", state, err, true, "b, b bytes=1000-, c bytes=1000-, d bytes=1000-")
}

// TestOwnFillContinues checks that this replica's own fill provides the rest if no other member is left.
func TestOwnFillContinues(t *testing.T) {
	r := newReplica(t, "b", "self")
	broken := content(r.blob, 1000)
	r.does["b"] = func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
		if h.Get("Range") != "" || c.StoreOnly {
			return nil, gone("b")
		}
		return broken(ctx, h, c)
	}
	state, err := r.fetch(r.Relay)
	r.want("by itself", state, err, true, "b, b bytes=1000-, b!")
	if r.own != 1 {
		t.Errorf("%d own fetches", r.own)
	}
	r.does["b"], r.fails = broken, &route.StatusError{Status: 502, Code: "UNAVAILABLE"}
	other := testutil.RandomBytes(1 << 20)
	r.blob = other
	r.does["b"] = func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
		if h.Get("Range") != "" || c.StoreOnly {
			return nil, gone("b")
		}
		return content(other, 1000)(ctx, h, c)
	}
	if state, err := r.fetch(r.Relay); state == store.Complete || err == nil {
		t.Errorf("state %d, %v", state, err)
	}
}

// TestNoMemberStarts checks that this replica's own fills serve the blob if no member starts to send it.
func TestNoMemberStarts(t *testing.T) {
	r := newReplica(t, "b", "c", "d", "e", "self")
	r.does["c"] = status(http.StatusBadGateway, "UNAVAILABLE")
	r.does["d"] = status(http.StatusMisdirectedRequest, "NAME_UNKNOWN")
	state, err := r.fetch(r.Relay)
	r.want("nobody", state, err, false, "b, c, d")
	if !errors.Is(err, fill.ErrNext) {
		t.Errorf("%v", err)
	}
	r.leave["b"], r.state["c"] = true, peer.Out
	r.does["e"] = content(r.blob, 1<<20)
	state, err = r.fetch(r.Relay)
	r.want("leaving and out", state, err, true, "d, e")
}

// TestRefusal checks that the upstream's error is passed on, with its age.
func TestRefusal(t *testing.T) {
	for _, n := range []int{http.StatusNotFound, http.StatusForbidden, http.StatusTooManyRequests} {
		r := newReplica(t, "b", "c", "self")
		r.does["b"] = status(n, "BLOB_UNKNOWN")
		state, err := r.fetch(r.Relay)
		r.want("refused", state, err, false, "b")
		var refused *route.StatusError
		var aged *peerError
		if !errors.As(err, &refused) || refused.Status != n || refused.Code != "BLOB_UNKNOWN" || !errors.As(err, &aged) || aged.Age() < 1e9 {
			t.Errorf("%v", err)
		}
	}
}

// TestSilentUpstream checks that a member's report of a silent upstream is final if this replica, which checks the
// upstream while it waits, considers it down, too.
func TestSilentUpstream(t *testing.T) {
	silent := func(_ context.Context, _ http.Header, c peer.CallOptions) (*http.Response, error) {
		if !c.UpstreamDown {
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Second)
		return status(http.StatusGatewayTimeout, "UNAVAILABLE")(nil, nil, c)
	}
	r := newReplica(t, "b", "c", "self")
	r.does["b"], r.does["c"] = silent, content(r.blob, 1<<20)
	tag := route.Request{Kind: route.Manifest, Upstream: "one.example", Repository: "a", Tag: "v1"}
	synctest.Test(t, func(t *testing.T) {
		r.health.takes = 2 * time.Second
		check := func(what, asked string, wanted time.Duration, f func() (int, error)) {
			t.Helper()
			begun := time.Now()
			got, err := f()
			if took := time.Since(begun); got != http.StatusGatewayTimeout || took != wanted || r.seen() != asked {
				t.Errorf("%s: %d, %v, after %v", what, got, err, took)
			}
			synctest.Wait()
		}
		blob := func() (int, error) {
			g := r.part.Grow(r.request().Digest, -1)
			defer g.Close()
			err := r.Relay.Fetch(t.Context(), r.request(), g)
			var refused *route.StatusError
			if !errors.As(err, &refused) {
				return 0, err
			}
			return refused.Status, err
		}
		manifest := func() (int, error) {
			a, err := r.Get(t.Context(), tag, "")
			if err != nil {
				return 0, err
			}
			return a.Status, nil
		}
		r.out = true
		check("first blob", "b", 3*time.Second, blob)
		check("second blob", "b", 2*time.Second, blob)
		r.was.Store(false)
		check("first tag", "b", 3*time.Second, manifest)
		check("second tag", "b", 2*time.Second, manifest)
		if r.looks != 2 {
			t.Errorf("%d looks", r.looks)
		}
		r.out = false
		r.was.Store(false)
		if _, err := blob(); err != nil || r.seen() != "b, c" {
			t.Errorf("only the member finds it out: %v", err)
		}
	})
}

// TestWrongBytes checks that wrong bytes from a member are never complete, and that the member is not asked for the
// blob again.
func TestWrongBytes(t *testing.T) {
	r := newReplica(t, "b", "c", "self")
	bad := bytes.Clone(r.blob)
	bad[1000] ^= 1
	r.does["b"], r.does["c"] = content(bad, 1<<20), content(r.blob, 1<<20)
	state, err := r.fetch(r.Relay)
	r.want("wrong", state, err, false, "b")
	if !errors.Is(err, fill.ErrNext) || state != store.Failed {
		t.Errorf("state %d, %v", state, err)
	}
	state, err = r.fetch(r.Relay)
	r.want("after that", state, err, true, "c")
	for name, b := range map[string][]byte{"longer": append(bytes.Clone(r.blob), 1), "shorter": r.blob[:1000]} {
		r := newReplica(t, "b", "self")
		blob := r.blob
		r.does["b"] = content(b, 1<<21)
		r.blob = append(bytes.Clone(blob), blob...)
		if state, err := r.fetch(r.Relay); state == store.Complete || !errors.Is(err, fill.ErrNext) {
			t.Errorf("%s: state %d, %v", name, state, err)
		}
	}
}

// restCut returns a body that ends before its first byte.
func restCut(context.Context, http.Header, peer.CallOptions) (*http.Response, error) {
	header := http.Header{"Content-Range": {"bytes 1000-1048575/1048576"}}
	body := io.NopCloser(cut{bytes.NewReader(nil)})
	return &http.Response{StatusCode: http.StatusPartialContent, Header: header, ContentLength: 1<<20 - 1000, Body: body}, nil
}

// TestFillOfMemberFails checks that a member's refusal to send the rest is final: no other member is asked, and none is
// blamed. A member that cuts the rest without such a refusal, as older versions do, is given up for another one.
func TestFillOfMemberFails(t *testing.T) {
	refuses := func(code string) func(context.Context, http.Header, peer.CallOptions) (*http.Response, error) {
		return status(http.StatusBadGateway, code)
	}
	for name, test := range map[string]struct {
		second, third func(context.Context, http.Header, peer.CallOptions) (*http.Response, error) // responses of b
		err           error
		asked         string
	}{
		"wrong bytes":             {refuses(fill.CodeWrong), nil, fill.ErrAgain, "b, b bytes=1000-"},
		"failed twice":            {refuses(fill.CodeBroken), nil, errBroken, "b, b bytes=1000-"},
		"failed twice at a byte":  {restCut, refuses(fill.CodeBroken), errBroken, "b, b bytes=1000-, b bytes=1000-"},
		"an older member":         {restCut, restCut, nil, "b, b bytes=1000-, b bytes=1000-, c bytes=1000-"},
		"it fails another answer": {refuses("UNAVAILABLE"), nil, nil, "b, b bytes=1000-, c bytes=1000-"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplica(t, "b", "c", "self")
			answers := []func(context.Context, http.Header, peer.CallOptions) (*http.Response, error){content(r.blob, 1000), test.second, test.third}
			r.does["b"] = func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
				next := answers[0]
				answers = answers[1:]
				return next(ctx, h, c)
			}
			r.does["c"] = content(r.blob, 1<<20)
			state, err := r.fetch(r.Relay)
			r.want(name, state, err, test.err == nil, test.asked)
			if test.err != nil && !errors.Is(err, test.err) || r.denied.has(r.Key(r.request()), "b") || r.own != 0 {
				t.Errorf("%v, %d own fetches", err, r.own)
			}
			if slices.ContainsFunc(r.uris, func(uri string) bool { return uri != r.uris[0] || !strings.Contains(uri, "&relay=") }) {
				t.Errorf("not one relay: %q", r.uris)
			}
		})
	}
}

// TestOtherSize uses a second member that reports another size.
func TestOtherSize(t *testing.T) {
	r := newReplica(t, "b", "c", "self")
	r.does["c"] = func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
		if c.StoreOnly {
			return nil, gone("c")
		}
		return content(append(bytes.Clone(r.blob), 1), 1<<21)(ctx, h, c)
	}
	calls := 0
	r.does["b"] = func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
		if calls++; calls > 1 {
			return nil, gone("b")
		}
		return content(r.blob, 1000)(ctx, h, c)
	}
	state, err := r.fetch(r.Relay)
	r.want("by itself", state, err, true, "b, b bytes=1000-, c bytes=1000-, b!, c!")
}

// TestTurn checks that this replica fetches before the members after it are asked, unless its own fill has just failed.
func TestTurn(t *testing.T) {
	r := newReplica(t, "b", "self", "c")
	r.does["b"] = status(http.StatusServiceUnavailable, "UNAVAILABLE")
	r.does["c"] = content(r.blob, 1<<20)
	state, err := r.fetch(r.Relay)
	r.want("its turn", state, err, false, "b")
	if !errors.Is(err, fill.ErrNext) {
		t.Errorf("%v", err)
	}
	r.does["c"], r.fails = nil, errors.New("down")
	if code, _ := r.get(); code != http.StatusBadGateway || !r.Relay.own.FailedRecently(r.request()) {
		t.Errorf("%d", code)
	}
	r.seen()
	r.does["c"] = content(r.blob, 1<<20)
	state, err = r.fetch(r.Relay)
	r.want("the own fill has failed", state, err, true, "b, c")
}

// TestUnexpectedStatus checks that the next member is asked after a status that is neither the blob nor an error, which
// a client would mistake for the blob.
func TestUnexpectedStatus(t *testing.T) {
	for _, n := range []int{99, http.StatusSwitchingProtocols, http.StatusCreated, http.StatusNoContent, http.StatusFound, http.StatusNotModified} {
		r := newReplica(t, "b", "c", "self")
		r.does["b"], r.does["c"] = status(n, "UNKNOWN"), content(r.blob, 1<<20)
		state, err := r.fetch(r.Relay)
		r.want(strconv.Itoa(n), state, err, true, "b, c")
	}
}

// TestEndsEarlyWithoutSize checks that the next member is asked if a body of unknown size ends before the size that
// another member has reported.
func TestEndsEarlyWithoutSize(t *testing.T) {
	r := newReplica(t, "b", "c", "self")
	r.does["c"] = content(r.blob, 1<<20)
	first := true
	r.does["b"] = func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
		if first {
			first = false
			return content(r.blob, 1000)(ctx, h, c)
		}
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: -1, Body: io.NopCloser(bytes.NewReader(r.blob[:10]))}, nil
	}
	state, err := r.fetch(r.Relay)
	r.want("ended early", state, err, true, "b, b bytes=1000-, c bytes=1000-")
}

// TestPartsOfWrongBytes checks that no member that sent a part of a wrong blob is asked for it again.
func TestPartsOfWrongBytes(t *testing.T) {
	for _, rest := range []string{"c", "self"} {
		r := newReplica(t, "b", rest, "d")
		bad := bytes.Clone(r.blob)
		bad[10] ^= 1
		r.does["b"] = func(ctx context.Context, h http.Header, c peer.CallOptions) (*http.Response, error) {
			if h.Get("Range") != "" || c.StoreOnly {
				return nil, gone("b")
			}
			return content(bad, 1000)(ctx, h, c)
		}
		r.does["c"] = content(r.blob, 1<<20)
		if state, err := r.fetch(r.Relay); state != store.Failed || !errors.Is(err, fill.ErrNext) {
			t.Errorf("%s: state %d, %v", rest, state, err)
		}
		r.seen()
		if names := r.Relay.members(r.request()); slices.Contains(names, "b") || !slices.Contains(names, "d") {
			t.Errorf("%s: next are %v", rest, names)
		}
	}
}
