// SPDX-License-Identifier: GPL-3.0-or-later

// Package auth checks the credentials of requests against an htpasswd file with bcrypt hashes.
//
// bcrypt proves a credential once. The proof belongs to the user's line of the file and holds as long as the hash in
// that line stays the same, so it needs no time to live: a revoked or rotated user is refused with the next version of
// the file, and an unchanged user keeps the proof through every reload. At most one password of up to 72 bytes without
// NUL matches a bcrypt hash, so one proof per user is enough, and only a credential that bcrypt accepted can write it.
//
// Everything else waits for bcrypt, which checks one credential at a time:
//
//   - A user without a proof has a separate lane, and a lane without recent failures always goes first. These are the
//     first contacts of existing users.
//   - All credentials that cannot be good share one lane with a budget: names that are not in the file, and other
//     passwords of users whose password is already proven. Both cost the same bcrypt, so time does not show which
//     names exist. The exception is a flood: it delays unknown names before it delays the first contacts of users.
//
// The zero value of every answer is Bad.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Verdict is the result of checking a credential.
type Verdict int

const (
	// Bad is a missing, malformed or wrong credential: 401.
	Bad Verdict = iota
	// Good is a credential that matches the file as it is now.
	Good
	// TryLater is a credential that could not be checked in time: 429 with Retry-After.
	TryLater
)

// Result is the answer to one request.
type Result struct {
	Verdict Verdict
	// User is the name of a Good credential; otherwise it is empty.
	User string
	// RetryAfter is set with TryLater: whole seconds, from 1 s to 60 s.
	RetryAfter time.Duration
}

// Options configure a Checker.
type Options struct {
	// Path is the htpasswd file.
	Path string
	// Poll is the time between two looks at the file; 1 s if it is 0. A change takes effect within this time.
	Poll time.Duration
	// MaxWait is how long a request waits for its check before the answer is TryLater; 20 s if it is 0, which stays
	// below the 30 s after which containerd gives up.
	MaxWait time.Duration
	// Log receives what happens to the file; nothing is logged if it is nil.
	Log *slog.Logger
}

// Stats are counters since the start and gauges of this moment.
type Stats struct {
	Users          int    // gauge: users in the file; 0 while the file on disk is broken
	Waiting        int    // gauge: checks that wait for bcrypt
	Good           uint64 // answers
	Bad            uint64 // answers
	TryLater       uint64 // answers, also to clients that left
	Matched        uint64 // bcrypt checks
	Mismatched     uint64 // bcrypt checks
	ReloadFailures uint64 // versions of the file that were not taken
}

// Checker checks credentials. Its methods may be called by many goroutines at once.
type Checker struct {
	key     [sha256.Size]byte
	maxWait time.Duration
	users   atomic.Pointer[users]
	queue   *queue
	file    *file

	good, bad, tryLater atomic.Uint64

	stop context.CancelFunc
	done sync.WaitGroup
}

// digest is the keyed hash of a credential, so that the credential itself is not kept in memory.
type digest [sha256.Size]byte

// compareFunc reports whether a password has a bcrypt hash. It returns false early when the context ends.
type compareFunc func(ctx context.Context, hash string, password []byte) bool

// New returns a Checker that follows the file until Close. It returns an error if the file cannot be used.
func New(o Options) (*Checker, error) { return newChecker(o, matches) }

func newChecker(o Options, compare compareFunc) (*Checker, error) {
	if o.Path == "" {
		return nil, errors.New("auth: no htpasswd file is given; name one, for example /etc/registry/htpasswd")
	}
	if o.Poll <= 0 {
		o.Poll = time.Second
	}
	if o.MaxWait <= 0 {
		o.MaxWait = 20 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Checker{maxWait: o.MaxWait, file: &file{path: o.Path, log: o.Log}}
	if _, err := rand.Read(c.key[:]); err != nil {
		return nil, err
	}
	lines, _, err := c.file.next()
	if err != nil {
		return nil, err
	}
	c.users.Store(newUsers(lines, nil))
	c.queue = newQueue(compare, o.MaxWait, c.valid)

	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.done.Go(func() { c.queue.work(ctx) })
	c.done.Go(func() { c.watchFile(ctx, o.Poll) })
	return c, nil
}

// Close ends the background work and every wait. Check refuses from then on.
func (c *Checker) Close() {
	c.queue.close()
	c.stop()
	c.done.Wait()
}

// Stats returns the counters and gauges.
func (c *Checker) Stats() Stats {
	s := Stats{
		Good: c.good.Load(), Bad: c.bad.Load(), TryLater: c.tryLater.Load(),
		ReloadFailures: c.file.failures.Load(),
	}
	if !c.file.broken.Load() {
		s.Users = len(c.users.Load().byName)
	}
	s.Waiting, s.Matched, s.Mismatched = c.queue.counts()
	return s
}

// Check checks the value of an Authorization header. It waits for the result at most MaxWait, or until ctx ends. The
// source is the client's address. It only sets the order within a lane, so that one client's guesses do not delay another
// client; the zero Addr is fine.
func (c *Checker) Check(ctx context.Context, header string, source netip.Addr) Result {
	r := c.check(ctx, header, source)
	switch r.Verdict {
	case Good:
		c.good.Add(1)
	case TryLater:
		c.tryLater.Add(1)
	default:
		c.bad.Add(1)
	}
	return r
}

func (c *Checker) check(ctx context.Context, header string, source netip.Addr) Result {
	cred, ok := parseBasic(header)
	if !ok {
		return Result{}
	}
	id := c.digest(cred)
	deadline := time.Now().Add(c.maxWait)
	for {
		if c.queue.closed.Load() {
			return tryLater(0)
		}
		u := c.users.Load().byName[string(cred.name)]
		if u.proves(id) {
			return Result{Verdict: Good, User: u.name}
		}
		outcome, retry := c.queue.wait(ctx, c.newCheck(u, cred, id), sourcePrefix(source), deadline)
		switch outcome {
		case matched:
			return Result{Verdict: Good, User: u.name}
		case mismatched:
			return Result{}
		case rejected:
			return tryLater(retry)
		case stale:
			// The user's line changed while the credential waited: judge it by the new one.
		}
	}
}

// newCheck returns the check that the credential needs: against the user's hash as long as no password of the user is
// proven, otherwise one that cannot succeed and costs the same.
func (c *Checker) newCheck(u *user, cred credential, id digest) *check {
	k := &check{id: id, name: string(cred.name), password: cred.password, lane: &c.queue.guesses}
	if u != nil && u.proof.Load() == nil {
		k.user, k.hash, k.lane = u, u.hash, &u.lane
	} else {
		k.hash = c.users.Load().decoy
	}
	return k
}

// valid reports whether the result of a check is still what its clients wait for. It is called with the queue's lock held,
// which is also held when proofs are written.
func (c *Checker) valid(k *check) bool {
	u := c.users.Load().byName[k.name]
	if k.user != nil {
		return u == k.user && u.proof.Load() == nil
	}
	return u == nil || u.proof.Load() != nil && !u.proves(k.id)
}

// digest returns the digest of a credential: the hash of the key and the credential. HMAC is not needed, since nobody sees a
// digest and could extend it.
func (c *Checker) digest(cred credential) digest {
	var text [sha256.Size + maxHeader]byte
	n := copy(text[:], c.key[:])
	n += copy(text[n:], cred.pair)
	return sha256.Sum256(text[:n])
}

// watchFile loads each new version of the file until ctx ends.
func (c *Checker) watchFile(ctx context.Context, poll time.Duration) {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if lines, changed, err := c.file.next(); changed && err == nil {
			c.users.Store(newUsers(lines, c.users.Load()))
			c.queue.wake()
		}
	}
}

// tryLater returns a Result with the Verdict TryLater and a time in whole seconds.
func tryLater(retry time.Duration) Result {
	seconds := (retry + time.Second - 1) / time.Second
	return Result{Verdict: TryLater, RetryAfter: min(max(seconds, 1), 60) * time.Second}
}

// sourcePrefix returns the addresses that count as one source: an IPv4 address, or the /64 of an IPv6 address.
func sourcePrefix(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}
