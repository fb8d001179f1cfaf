// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	parallel   = 3         // concurrent blobs of a pull, as in containerd
	bufferSize = 256 << 10 // fits into a CPU cache
	// slowBuffer is the receive buffer of a slow reader, in bytes. With a larger one, the kernel would receive the body
	// at full speed.
	slowBuffer = 64 << 10
)

// Errors of responses, as counted in reports.
var (
	errDigest = errors.New("wrong digest")
	errSize   = errors.New("the body has the wrong size")
	errTag    = errors.New("the tag has another manifest")
)

// A session is one connection of a client, kept alive between requests. It writes requests directly, since net/http's
// client would use as much CPU time as a server on the same machine.
type session struct {
	group    *Group
	endpoint string
	clock    time.Time // start of the plan
	conn     net.Conn
	reader   *bufio.Reader
	buffer   []byte
	hash     hash.Hash
	hashes   bool
	pacing   time.Time
	extended time.Time // when the deadline was last set
}

func newSession(g *Group, client int, clock time.Time) *session {
	return &session{
		group: g, endpoint: g.Endpoints[client%len(g.Endpoints)], clock: clock, reader: bufio.NewReaderSize(nil, 16<<10),
		buffer: make([]byte, bufferSize), hash: sha256.New(), hashes: g.HashEvery < 2 || client%g.HashEvery == 0,
	}
}

func (s *session) close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

func dial(g *Group, endpoint string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: seconds(g.Timeout)}
	if g.Rate > 0 {
		// Set this before connecting: afterwards, the kernel has already announced a larger window.
		dialer.Control = func(_, _ string, raw syscall.RawConn) (err error) {
			if outer := raw.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, slowBuffer)
			}); outer != nil {
				return outer
			}
			return err
		}
	}
	return dialer.Dial("tcp", endpoint)
}

// header returns the bytes of a request.
func header(g *Group, endpoint, method string, t Target, credential string) []byte {
	b := make([]byte, 0, 1024)
	b = append(b, method+" "+t.Path+" HTTP/1.1\r\nHost: "+endpoint+"\r\nUser-Agent: registry-cache-load\r\n"...)
	if credential != "" {
		b = append(b, "Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte(credential))+"\r\n"...)
	}
	if g.Accept != "" {
		b = append(b, "Accept: "+g.Accept+"\r\n"...)
	}
	if t.Range != "" {
		b = append(b, "Range: "+t.Range+"\r\n"...)
	}
	if g.Reconnect {
		b = append(b, "Connection: close\r\n"...)
	}
	return append(b, "\r\n"...)
}

// credential returns the user and password for a request of the group. number makes guesses different.
func (g *Group) credential(number int) string {
	switch {
	case g.Guess == "password":
		return fmt.Sprintf("%s:guess-%d", g.User, number)
	case g.Guess == "user":
		return fmt.Sprintf("unknown-%d:guess", number)
	case g.User == "":
		return ""
	}
	return g.User + ":" + g.password
}

// An exchange is the result of one request.
type exchange struct {
	first  time.Duration // time of the first byte, from the start of the request
	status int
	bytes  int64
	hashed bool
	digest string // from Docker-Content-Digest
	kept   []byte
}

// do sends a request and reads the response to its end, into body if it is not nil. The error describes what is wrong
// with the response.
func (s *session) do(request []byte, head bool, t Target, body []byte, began time.Time) (x exchange, err error) {
	reused := s.conn != nil
	x, answered, err := s.attempt(request, head, t, body, began)
	if err != nil {
		s.close()
		// A server may close an idle connection at any time, and clients retry.
		if reused && !answered {
			x, _, err = s.attempt(request, head, t, body, began)
		}
	}
	if err != nil || s.group.Reconnect {
		s.close()
	}
	return x, err
}

func (s *session) attempt(request []byte, head bool, t Target, body []byte, began time.Time) (x exchange, answered bool, err error) {
	if s.conn == nil {
		if s.conn, err = dial(s.group, s.endpoint); err != nil {
			return x, false, errors.New("connect: " + reason(err))
		}
		s.reader.Reset(s.conn)
		s.extended = time.Time{}
	}
	if err := s.extend(); err != nil {
		return x, false, err
	}
	if _, err := s.conn.Write(request); err != nil {
		return x, false, errors.New("send: " + reason(err))
	}
	method := http.MethodGet
	if head {
		method = http.MethodHead
	}
	answer, err := http.ReadResponse(s.reader, &http.Request{Method: method})
	if err != nil {
		return x, false, errors.New("no response: " + reason(err))
	}
	defer answer.Body.Close()
	x.status, x.digest, x.first = answer.StatusCode, answer.Header.Get("Docker-Content-Digest"), time.Since(began)
	if err := s.read(&x, answer, t, body, began); err != nil {
		return x, true, err
	}
	if answer.Close {
		s.close()
	}
	return x, true, s.check(&x, answer, t, head)
}

// read reads the body of a response, and hashes or keeps it.
func (s *session) read(x *exchange, answer *http.Response, t Target, body []byte, began time.Time) error {
	s.hash.Reset()
	s.pacing = time.Now()
	for {
		buffer := s.buffer
		switch {
		case body != nil && x.bytes < int64(len(body)):
			buffer = body[x.bytes:]
		case s.group.Rate > 0:
			buffer = buffer[:min(int64(len(buffer)), max(s.group.Rate/20, 1))]
		}
		n, err := answer.Body.Read(buffer)
		if n > 0 {
			if x.bytes == 0 {
				x.first = time.Since(began)
			}
			x.bytes += int64(n)
			if body == nil && s.hashes && t.Digest != "" {
				s.hash.Write(buffer[:n])
			}
			if err := s.pace(x.bytes); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if body != nil {
				x.kept = body[:min(x.bytes, int64(len(body)))]
			}
			return nil
		case err != nil:
			return errors.New("cut: " + reason(err))
		}
	}
}

// pace waits as long as a slow reader does, and extends the deadline if bytes have arrived.
func (s *session) pace(got int64) error {
	if rate := s.group.Rate; rate > 0 {
		time.Sleep(time.Until(s.pacing.Add(seconds(float64(got) / float64(rate)))))
	}
	return s.extend()
}

// extend sets the deadline for the next byte. It is precise only to a tenth of the timeout, since setting it is not
// free.
func (s *session) extend() error {
	now := time.Now()
	if now.Sub(s.extended) < seconds(s.group.Timeout/10) {
		return nil
	}
	s.extended = now
	return s.conn.SetDeadline(now.Add(seconds(s.group.Timeout)))
}

var contentRange = regexp.MustCompile(`^bytes (\d+)-(\d+)/\d+$`)

// check returns an error if a response is not what the plan expects.
func (s *session) check(x *exchange, answer *http.Response, t Target, head bool) error {
	expect := s.group.Expect
	if len(expect) == 0 {
		expect = []int{http.StatusOK}
		if t.Range != "" {
			expect = []int{http.StatusPartialContent}
		}
	}
	switch {
	case !slices.Contains(expect, x.status):
		return fmt.Errorf("status %d", x.status)
	case x.status/100 != 2 || head:
		return nil
	case answer.ContentLength >= 0 && answer.ContentLength != x.bytes:
		return errors.New("the body does not match its Content-Length")
	case t.Size > 0 && x.bytes != t.Size:
		return errSize
	case t.Range != "" && !strings.Contains(t.Range, ",") && !inRange(answer.Header.Get("Content-Range"), t.Range, x.bytes):
		return errors.New("the response has the wrong range")
	case t.Digest == "" || !s.hashes:
		return nil
	}
	x.hashed = true
	// Kept bodies are hashed later.
	if x.kept == nil && "sha256:"+hex.EncodeToString(s.hash.Sum(nil)) != t.Digest {
		return errDigest
	}
	return nil
}

// inRange reports whether a Content-Range starts at the requested offset and is as long as the body.
func inRange(got, asked string, size int64) bool {
	match := contentRange.FindStringSubmatch(got)
	if match == nil {
		return false
	}
	first, _ := strconv.ParseInt(match[1], 10, 64)
	last, _ := strconv.ParseInt(match[2], 10, 64)
	wanted, _, _ := strings.Cut(strings.TrimPrefix(asked, "bytes="), "-")
	return last-first+1 == size && (wanted == "" || wanted == match[1])
}

// compareDigest returns an error if a body does not match the digest.
func compareDigest(body []byte, digest string) error {
	sum := sha256.Sum256(body)
	if "sha256:"+hex.EncodeToString(sum[:]) != digest {
		return errDigest
	}
	return nil
}

// reason returns the text of an error without addresses, so that equal errors are counted together.
func reason(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}

// record adds an exchange to the tally.
func (t *tally) record(x exchange, digest string, err error) {
	t.bytes += x.bytes
	if x.status > 0 {
		t.statuses[x.status]++
		if x.hashed {
			t.hashed++
		} else {
			t.counted++
		}
	}
	if x.kept != nil && x.hashed {
		t.kept = append(t.kept, kept{x.kept, digest})
	}
	if err != nil {
		t.fail(err)
	}
}

// get makes one request.
func (s *session) get(t *tally, target Target, credential string, body []byte, began time.Time) {
	x, err := s.do(header(s.group, s.endpoint, http.MethodGet, target, credential), false, target, body, began)
	t.record(x, target.Digest, err)
	t.done(began.Sub(s.clock), x.first, time.Since(s.clock))
}

// pull pulls an image with all sessions of a client. It counts at most one failure, however many requests fail.
func pull(sessions []*session, t *tally, credential string, bodies [][]byte, began time.Time) {
	g, s, failed := sessions[0].group, sessions[0], t.failed
	exchange := func(s *session, t *tally, i int, head bool) {
		target, method, started := g.Targets[i], http.MethodGet, time.Now()
		var body []byte
		if head {
			method = http.MethodHead
		} else if bodies != nil {
			body = bodies[i]
		}
		x, err := s.do(header(g, s.endpoint, method, target, credential), head, target, body, started)
		if head && err == nil && x.digest != "" && target.Digest != "" && x.digest != target.Digest {
			err = errTag
		}
		t.record(x, target.Digest, err)
		t.first = append(t.first, x.first)
	}
	exchange(s, t, 0, true)
	exchange(s, t, 0, false)
	if t.failed == failed {
		queue := make(chan int, len(g.Targets))
		for i := 1; i < len(g.Targets); i++ {
			queue <- i
		}
		close(queue)
		tallies := make([]*tally, len(sessions))
		var group sync.WaitGroup
		for n, s := range sessions {
			tallies[n] = newTally()
			group.Go(func() {
				for i := range queue {
					exchange(s, tallies[n], i, false)
				}
			})
		}
		group.Wait()
		for _, other := range tallies {
			t.add(other)
		}
	}
	// done records one time per pull: that of its slowest request.
	first := slices.Max(t.first[len(t.latency):])
	t.first = t.first[:len(t.latency)]
	t.failed = min(t.failed, failed+1)
	t.done(began.Sub(s.clock), first, time.Since(s.clock))
}

// add adds the exchanges of another tally.
func (t *tally) add(other *tally) {
	t.failed, t.hashed, t.counted = t.failed+other.failed, t.hashed+other.hashed, t.counted+other.counted
	t.bytes += other.bytes
	t.first, t.kept = append(t.first, other.first...), append(t.kept, other.kept...)
	for text, n := range other.errors {
		t.errors[text] += n
	}
	for status, n := range other.statuses {
		t.statuses[status] += n
	}
}
