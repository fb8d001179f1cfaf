// SPDX-License-Identifier: GPL-3.0-or-later

// Package auth checks the credentials of requests against an htpasswd file with bcrypt hashes.
//
// A credential is checked with bcrypt once. The successful check is remembered as a proof that belongs to the user's
// line of the file and stays valid as long as the hash in that line is unchanged. It needs no time to live: a revoked
// or rotated user is refused as soon as the new version of the file is loaded, and an unchanged user keeps the proof
// through every reload. At most one password of up to 72 bytes without NUL matches a bcrypt hash, so one proof per user
// is enough, and only a credential that bcrypt has accepted can replace it.
//
// All other credentials wait for bcrypt, which checks one credential at a time:
//
//   - A user without a proof has a separate lane. Lanes without recent failures always go first, since they hold the
//     first requests of existing users.
//   - All credentials that cannot be valid share one lane with a budget: unknown user names, and other passwords of
//     users who already have a proof. Both cost the same bcrypt check, so that timing does not reveal which names
//     exist. A flood is the exception: it delays unknown names before it delays the first requests of users.
//
// The zero value of Verdict is Bad.
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
	// Good is a credential that matches the current version of the file.
	Good
	// TryLater is a credential that could not be checked in time: 429 with Retry-After.
	TryLater
)

// Result is the result of one call of Check.
type Result struct {
	Verdict Verdict
	// User is the name of a Good credential; otherwise it is empty.
	User string
	// RetryAfter is set with TryLater. It is in whole seconds, from 1 s to 60 s.
	RetryAfter time.Duration
}

// Options configure a Checker.
type Options struct {
	// Path is the htpasswd file.
	Path string
	// Poll is the interval at which the file is read (default 1 s). A change takes effect within this time.
	Poll time.Duration
	// MaxWait is how long a request waits for its check before the result is TryLater (default 20 s, which is less than
	// the 30 s after which containerd gives up).
	MaxWait time.Duration
	// Log receives reloads and errors of the file. If it is nil, nothing is logged.
	Log *slog.Logger
}

// Stats holds counters since the start and current gauges.
type Stats struct {
	Users          int    // gauge: users in the file; 0 while the file on disk is broken
	Waiting        int    // gauge: checks waiting for bcrypt
	Good           uint64 // results
	Bad            uint64 // results
	TryLater       uint64 // results, including those of clients that have left
	Matched        uint64 // bcrypt checks
	Mismatched     uint64 // bcrypt checks
	ReloadFailures uint64 // versions of the file that could not be loaded
}

// Checker checks credentials. It is safe for concurrent use.
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

// digest is the keyed hash of a credential. The credential itself is not kept in memory.
type digest [sha256.Size]byte

// compareFunc reports whether a password matches a bcrypt hash. It returns false as soon as ctx is done.
type compareFunc func(ctx context.Context, hash string, password []byte) bool

// New returns a Checker that follows changes of the file until Close. It returns an error if the file cannot be used.
func New(o Options) (*Checker, error) { return newChecker(o, matches) }

func newChecker(o Options, compare compareFunc) (*Checker, error) {
	if o.Path == "" {
		return nil, errors.New("auth: an htpasswd file is required; for example /etc/registry/htpasswd")
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

// Close stops the background work and all waiting checks. Afterwards, Check refuses every credential.
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

// Check checks the value of an Authorization header. It waits for the result until ctx is done, and at most MaxWait.
// source is the client's address, or the zero Addr. It affects only the order within a lane, so that one client's
// guesses do not delay other clients.
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
			// The user's line changed while the credential was waiting: check it against the new line.
		}
	}
}

// newCheck returns the check for a credential: against the user's hash if the user has no proof, or else a check that
// cannot succeed and costs the same.
func (c *Checker) newCheck(u *user, cred credential, id digest) *check {
	k := &check{id: id, name: string(cred.name), password: cred.password, lane: &c.queue.guesses}
	if u != nil && u.proof.Load() == nil {
		k.user, k.hash, k.lane = u, u.hash, &u.lane
	} else {
		k.hash = c.users.Load().decoy
	}
	return k
}

// valid reports whether the result of a check still applies to its clients. The caller holds the queue's lock, which is
// also held when proofs are written.
func (c *Checker) valid(k *check) bool {
	u := c.users.Load().byName[k.name]
	if k.user != nil {
		return u == k.user && u.proof.Load() == nil
	}
	return u == nil || u.proof.Load() != nil && !u.proves(k.id)
}

// digest returns the hash of the key and the credential. HMAC is not needed: digests never leave the process, so nobody
// can extend one.
func (c *Checker) digest(cred credential) digest {
	var text [sha256.Size + maxHeader]byte
	n := copy(text[:], c.key[:])
	n += copy(text[n:], cred.pair)
	return sha256.Sum256(text[:n])
}

// watchFile loads each new version of the file until ctx is done.
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

// tryLater returns a Result with the verdict TryLater. It rounds retry to whole seconds.
func tryLater(retry time.Duration) Result {
	seconds := (retry + time.Second - 1) / time.Second
	return Result{Verdict: TryLater, RetryAfter: min(max(seconds, 1), 60) * time.Second}
}

// sourcePrefix returns the prefix that counts as one source: an IPv4 address, or the /64 of an IPv6 address.
func sourcePrefix(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}
