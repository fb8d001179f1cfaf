// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/route"
	"pullthrough.registry_cache/docker/registry/internal/schema1"
)

// savesShare is the divisor of Options.InFlight that limits the answers waiting for the disk.
const savesShare = 8

// A check asks the upstream one question. It has one attempt, or two if the first gets no answer: the older one may
// still return slow content, and the newer one detects that the upstream has recovered.
type check struct {
	question question
	attempts []*attempt // oldest first
	round    *round
	waiting  int // number of waiting clients
}

type attempt struct {
	cancel context.CancelFunc
	asking bool // the upstream is being asked; the attempt is not queued
	begun  time.Time
}

// A round ends when any of its attempts ends. Later clients wait for the next round.
type round struct {
	done    chan struct{}
	answer  *Answer // set before done is closed
	clients int     // number of waiting clients; each becomes a user of the answer
}

// answer returns the answer to a question, or nil if ctx is done first. It waits for the upstream for at most limit, or
// Options.Patience if there is an old answer. The caller holds the answer's lease.
func (h *Handler) answer(ctx context.Context, u *upstream, q question, limit time.Duration) (*Answer, Result) {
	h.mu.Lock()
	k, old, full := h.lookup(ctx, u, q)
	if full {
		h.mu.Unlock()
		if ctx.Err() != nil {
			return nil, ClientGone
		}
		return noRoomAnswer(), Failed
	}
	now := time.Now()
	if old != nil && (q.isByDigest() || now.Before(k.fresh)) {
		h.touchLocked(u, q, k, old, now)
		h.mu.Unlock()
		if q.isByDigest() {
			return old, Hit
		}
		return old.withAge(k.age(now)), Hit
	}
	q = u.routed(q)
	// A client without an old answer waits for a silent upstream, since slow content may still arrive.
	if e, ok := h.errors.get(q); ok && now.Before(e.until) && (old != nil || e.answer.Status != http.StatusGatewayTimeout) {
		h.mu.Unlock()
		shared := e.answer.withAge(now.Sub(e.learned))
		if !shared.lease.acquire() {
			shared = noRoomAnswer()
		}
		return h.chooseAnswer(old, k.age(now), shared, Shared)
	}
	if old != nil && now.Before(k.silent) {
		if c := h.checks[q]; c == nil || c.silence(now) >= h.opts.Remember {
			h.startAttemptLocked(u, q) // later clients may find that the upstream has recovered
		}
		h.touchLocked(u, q, k, old, now)
		h.mu.Unlock()
		return old.asStale(k.age(now)), Stale
	}
	c, result := h.joinLocked(u, q, old != nil, now)
	if c == nil {
		h.mu.Unlock()
		return h.chooseAnswer(old, k.age(now), busyAnswer(), Failed)
	}
	rd, deadline := c.round, now.Add(limit)
	if old != nil {
		deadline = now.Add(h.opts.Patience - c.silence(now))
	}
	h.mu.Unlock()

	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	timedOut := false
	select {
	case <-rd.done:
	case <-timer.C:
		timedOut = true
	case <-ctx.Done():
	}
	h.mu.Lock()
	h.leaveLocked(c)
	now = time.Now()
	ended := rd.answer != nil
	if !ended {
		rd.clients--
	}
	if timedOut && !ended && old != nil {
		k.silent = now.Add(h.opts.Remember)
	}
	h.mu.Unlock()
	switch {
	case ctx.Err() != nil && !timedOut:
		old.Release()
		if ended {
			rd.answer.Release()
		}
		return nil, ClientGone
	case ended && result == Miss && rd.answer.Known:
		return h.chooseAnswer(old, k.age(now), rd.answer, Hit)
	case ended:
		return h.chooseAnswer(old, k.age(now), rd.answer, result)
	}
	late := timeoutAnswer()
	late.ownError = true // the answer may still arrive
	return h.chooseAnswer(old, k.age(now), late, Failed)
}

// age returns the time since the entry's answer was given.
func (e *entry) age(now time.Time) time.Duration {
	if e == nil || e.learned.IsZero() {
		return 0
	}
	return now.Sub(e.learned)
}

// chooseAnswer returns the new answer, or the old one as stale if the new one is an outage. It releases the other one.
func (h *Handler) chooseAnswer(old *Answer, age time.Duration, a *Answer, result Result) (*Answer, Result) {
	switch {
	case a.isOK() && !a.Stale:
		old.Release()
		return a, result
	case old != nil:
		a.Release()
		return old.asStale(age), Stale
	case a.isOK():
		return a, Stale
	case a.Status == http.StatusNotFound:
		return a, Absent
	}
	return a, Failed
}

// lookup returns the last answer to a question, from memory or the store. The caller holds the answer's lease. full
// reports that there is no room for it in memory. lookup is called with mu locked. It unlocks mu while it waits for
// room and reads from the store.
func (h *Handler) lookup(ctx context.Context, u *upstream, q question) (k *entry, a *Answer, full bool) {
	for ctx.Err() == nil {
		k, a = h.lookupLocked(q)
		switch {
		case a != nil && a.lease.acquire():
			return k, a, false
		case a != nil:
			cost := a.lease.cost
			k, a = nil, nil // release the memory while waiting
			h.mu.Unlock()
			entered := h.inFlight.acquire(ctx, cost)
			h.mu.Lock()
			if !entered {
				return nil, nil, true
			}
			if k, a = h.lookupLocked(q); a != nil && a.lease != nil && a.lease.cost == cost {
				a.lease.acquireN(1, cost)
				return k, a, false
			}
			h.inFlight.release(cost)
			continue
		case q.Kind == route.Tags || u.archive.store == nil || k == nil && q.class != 0:
			return k, nil, false
		}
		d := q.Digest
		if k != nil && k.digest != "" {
			d = k.digest
		}
		h.mu.Unlock()
		loaded, mine, full := h.loadStored(u, q, d)
		h.mu.Lock()
		again, learned := h.lookupLocked(q)
		switch {
		case full:
			return nil, nil, true
		case loaded == nil && learned == nil:
			return nil, nil, false
		case loaded == nil || !mine && !loaded.lease.acquire():
			continue
		case learned != nil && learned.lease == loaded.lease:
			return again, learned, false
		case learned != nil: // a check has ended in the meantime
			loaded.Release()
			continue
		}
		return h.cacheLoadedLocked(q, loaded), loaded, false // too large to be cached
	}
	return nil, nil, true
}

// loadStored returns the stored answer to a question, or nil. Of several concurrent callers, mine is true for the one
// that holds the answer's lease.
func (h *Handler) loadStored(u *upstream, q question, d digest.Digest) (answer *Answer, mine, full bool) {
	loaded, err, _ := u.archive.loads.Do(q.Key()+" "+string(d), func() (any, error) {
		h.mu.Lock()
		_, a := h.lookupLocked(q)
		h.mu.Unlock()
		if a != nil {
			return a, nil
		}
		a, err := u.archive.read(h.ctx, q, d)
		if a == nil {
			return a, err
		}
		mine = true
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, learned := h.lookupLocked(q); learned == nil {
			h.cacheLoadedLocked(q, a)
		}
		return a, nil
	})
	return loaded.(*Answer), mine, err != nil
}

// cacheLoadedLocked caches an answer from the store.
func (h *Handler) cacheLoadedLocked(q question, loaded *Answer) *entry {
	if loaded.digest != "" {
		h.cacheLocked(q.forDigest(loaded.digest), &entry{answer: loaded})
	}
	if q.isByDigest() {
		return &entry{answer: loaded}
	}
	k, _ := h.memory.get(q.cacheKey())
	if k == nil || k.digest != loaded.digest {
		k = &entry{digest: loaded.digest}
		if loaded.digest == "" {
			k.answer = loaded
		}
		h.cacheLocked(q, k)
	}
	return k
}

// lookupLocked returns the cached entry and answer for a question.
func (h *Handler) lookupLocked(q question) (*entry, *Answer) {
	q = q.cacheKey()
	k, ok := h.memory.get(q)
	switch {
	case !ok && q.isByDigest():
		if a := h.large.get(q); a != nil {
			return &entry{answer: a}, a
		}
		return nil, nil
	case !ok:
		return nil, nil
	case k.answer != nil:
		return k, k.answer
	}
	if content, ok := h.memory.get(q.forDigest(k.digest)); ok {
		return k, content.answer
	}
	return k, h.large.get(q.forDigest(k.digest))
}

// cacheLocked caches an entry in memory.
func (h *Handler) cacheLocked(q question, k *entry) {
	q = q.cacheKey()
	size := len(q.Repository) + len(q.Query)
	if k.answer != nil {
		size += len(k.answer.Body)
	}
	if !h.memory.put(q, k, size) && q.isByDigest() && k.answer.lease != nil {
		h.large.put(q, k.answer)
		k.answer.lease.whole = k.answer
	}
}

// touchLocked marks content that is served from memory as used in the store, at most once per touchEvery. It saves
// content again that the store has evicted.
func (h *Handler) touchLocked(u *upstream, q question, k *entry, a *Answer, now time.Time) {
	if a.digest == "" || now.Sub(k.touched) < touchEvery || u.archive.store == nil || h.closed {
		return
	}
	first := k.touched.IsZero()
	k.touched = now
	if first {
		return // it has just been read or written
	}
	h.running.Go(func() {
		if u.archive.touch(h.ctx, a) {
			return
		}
		h.mu.Lock()
		may := h.beginSaveLocked(u, a)
		h.mu.Unlock()
		if may {
			h.save(u, q, a)
			h.endSave(u, a)
		}
	})
}

// beginSaveLocked reports whether an answer may wait for the disk. If so, the caller must call endSave after saving it.
func (h *Handler) beginSaveLocked(u *upstream, a *Answer) bool {
	size := int64(len(a.Body))
	if u.saves >= h.opts.Checks+h.opts.Queue || h.saving > 0 && h.saving+size > h.opts.InFlight/savesShare {
		return false
	}
	u.saves++
	h.saving += size
	return true
}

// endSave undoes beginSaveLocked.
func (h *Handler) endSave(u *upstream, a *Answer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	u.saves--
	h.saving -= int64(len(a.Body))
}

// joinLocked adds a client to the check of a question, and returns the check, or nil if there are too many. The client
// must call leaveLocked.
func (h *Handler) joinLocked(u *upstream, q question, patient bool, now time.Time) (*check, Result) {
	c, result := h.checks[q], Shared
	// If there is an old answer, the second attempt starts soon. Otherwise, it starts when no client of the first
	// attempt is waiting any more.
	due := 2 * h.opts.ClientTimeout
	if patient {
		due = h.opts.Patience
	}
	if c == nil || c.silence(now) >= due {
		if begun := h.startAttemptLocked(u, q); begun != nil {
			c, result = begun, Miss
		}
	}
	if c == nil {
		return nil, Failed
	}
	c.waiting++
	c.round.clients++
	return c, result
}

// leaveLocked removes a client from a check. Attempts without clients continue if the upstream has been asked.
func (h *Handler) leaveLocked(c *check) {
	if c.waiting--; c.waiting > 0 {
		return
	}
	for _, a := range slices.Clone(c.attempts) {
		if !a.asking {
			h.cancelAttemptLocked(c, a)
		}
	}
}

// silence returns how long the newest attempt has been waiting for the upstream.
func (c *check) silence(now time.Time) time.Duration {
	if a := c.attempts[len(c.attempts)-1]; a.asking {
		return now.Sub(a.begun)
	}
	return 0
}

// startAttemptLocked starts an attempt. It returns nil if too many questions are waiting for the upstream, or the
// Handler is closed.
func (h *Handler) startAttemptLocked(u *upstream, q question) *check {
	if h.closed {
		return nil
	}
	p := u.gateFor(q).join(q.Repository)
	if p == nil {
		return nil
	}
	c := h.checks[q]
	if c == nil {
		c = &check{question: q, round: &round{done: make(chan struct{})}}
		h.checks[q] = c
	}
	if len(c.attempts) == 2 {
		h.cancelAttemptLocked(c, c.attempts[1])
	}
	ctx, cancel := context.WithCancel(h.ctx)
	a := &attempt{cancel: cancel}
	c.attempts = append(c.attempts, a)
	h.running.Go(func() { h.runAttempt(ctx, u, c, a, p) })
	return c
}

// cancelAttemptLocked cancels an attempt whose result is not needed.
func (h *Handler) cancelAttemptLocked(c *check, a *attempt) {
	a.cancel()
	c.attempts = slices.DeleteFunc(c.attempts, func(other *attempt) bool { return other == a })
	if len(c.attempts) == 0 && h.checks[c.question] == c {
		delete(h.checks, c.question)
	}
}

// runAttempt runs an attempt and saves the answer.
func (h *Handler) runAttempt(ctx context.Context, u *upstream, c *check, a *attempt, p *ticket) {
	defer a.cancel()
	defer p.leave()
	q := c.question
	answer := closedAnswer()
	switch {
	case p.wait(ctx):
		h.mu.Lock()
		a.asking, a.begun = true, time.Now()
		h.mu.Unlock()
		answer = h.askAt(ctx, u, q, p)
	case p.wasRefused():
		answer = busyAnswer()
	}
	defer answer.Release()
	if !h.finishAttempt(u, c, a, answer) {
		return
	}
	h.save(u, q, answer)
	h.endSave(u, answer)
}

// askAt returns the upstream's answer to a question with a ticket. It gets referrers from the fallback tag if the
// upstream does not support the endpoint.
func (h *Handler) askAt(ctx context.Context, u *upstream, q question, p *ticket) *Answer {
	ctx, cancel := context.WithTimeout(ctx, h.opts.FetchTimeout)
	defer cancel()
	defer p.leave()
	// Questions that hang in dead connections must not block questions that would detect that the upstream has
	// recovered.
	defer time.AfterFunc(2*h.opts.ClientTimeout, func() {
		if !p.moveAside() {
			cancel()
		}
	}).Stop()
	answer := h.ask(ctx, u, q)
	if answer == nil { // the other replicas do not know
		p.leave() // this replica's own question takes another ticket
		return h.askSelf(ctx, u, q)
	}
	if q.Kind == route.Referrers && answer.Status == http.StatusNotFound {
		p.leave() // the tag takes another ticket
		answer = h.fallback(ctx, u, q.Request)
	}
	return answer
}

// ask returns the upstream's answer, or an error answer if it is not valid. It returns nil if other replicas were asked
// and do not know the answer.
func (h *Handler) ask(ctx context.Context, u *upstream, q question) (answer *Answer) {
	defer func() {
		if p := recover(); p != nil { // nothing that an upstream sends may crash the process
			h.log.Error("Panic while asking the upstream", "question", q.Key(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			answer = errorAnswer(http.StatusBadGateway, "UNAVAILABLE", "cannot read the upstream's response")
		}
	}()
	accept := ""
	switch q.Kind {
	case route.Manifest:
		accept = q.class.acceptHeader()
	case route.Referrers:
		accept = knownTypes[0]
	}
	v := &reservation{semaphore: h.inFlight}
	defer v.release()
	a, err := u.getterFor(q).Get(context.WithValue(ctx, reservationKey{}, v), q.Request, accept)
	switch {
	case errors.Is(err, ErrUnknownToPeers) && h.ctx.Err() == nil && ctx.Err() == nil:
		return nil
	case h.ctx.Err() != nil:
		return closedAnswer()
	case v.refused:
		return noRoomAnswer()
	case err != nil || a == nil:
		return failedAnswer(err)
	}
	answer, problem := validate(q.Request, a)
	if problem != "" {
		h.log.Warn("The upstream's response is not valid", "question", q.Key(), "problem", problem)
	}
	if answer.isOK() && !h.shareBytes(q, answer) && !v.attach(ctx, answer) {
		return noRoomAnswer()
	}
	return answer
}

// shareBytes makes a manifest use the same bytes as a copy that is already in memory, and reports whether there is one.
func (h *Handler) shareBytes(q question, a *Answer) bool {
	if a.digest == "" {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, known := h.lookupLocked(q.forDigest(a.digest))
	if known == nil || known.lease == nil || !known.lease.acquire() {
		return false
	}
	a.Body, a.lease = known.Body, known.lease
	return true
}

// validate returns the part of an upstream's answer that is served. If the answer is not valid, it returns an error
// answer and the problem.
func validate(r route.Request, a *Answer) (answer *Answer, problem string) {
	wrong := func(problem string) (*Answer, string) {
		return errorAnswer(http.StatusBadGateway, "UNAVAILABLE", "the upstream's response is not valid: "+problem), problem
	}
	switch {
	case a.Status == http.StatusUnauthorized: // a client must not attribute it to its own credential
		return errorAnswer(http.StatusServiceUnavailable, "UNAVAILABLE", "the upstream refuses the credential of this cache"), ""
	case a.Status >= http.StatusBadRequest:
		return trimError(a), ""
	case !a.isOK():
		return wrong(fmt.Sprintf("status %d", a.Status))
	case len(a.Body) > maxBody(r.Kind):
		return wrong("it is too large")
	case len(a.Body) == 0:
		return wrong("it is empty")
	}
	served := &Answer{Status: http.StatusOK, Body: clip(a.Body), Stale: a.Stale, Age: max(0, a.Age), Known: a.Known, mediaType: a.Header.Get("Content-Type")}
	if r.Kind == route.Manifest {
		served.Stale = a.Stale && r.Tag != "" // content of a digest is never stale
		if served.digest = r.Digest; r.Digest == "" {
			served.digest = digest.Digest(a.Header.Get("Docker-Content-Digest"))
		}
		switch {
		case served.digest == "":
			served.digest = digest.FromBytes(a.Body)
		case served.digest.Validate() != nil:
			return wrong("the digest algorithm is not supported")
		case !schema1.HasDigest(served.digest, served.mediaType, a.Body):
			return wrong("the content does not match the digest")
		}
		if served.mediaType == "" {
			served.mediaType = sniff(a.Body)
		}
		return served, ""
	}
	if r.Kind == route.Referrers {
		referrers := newReferrers(r, served.Body, a.Header.Get("OCI-Filters-Applied"))
		if referrers == nil {
			return wrong("it is not an index")
		}
		referrers.Stale, referrers.Age, referrers.Known = served.Stale, served.Age, served.Known
		served = referrers
	} else if served.mediaType == "" {
		served.mediaType = "application/json"
	}
	next, ok := nextQuery(r, a.Header["Link"])
	if !ok {
		problem = "the link to the next page is not valid"
	}
	served.next = next
	return served, problem
}

// maxBody returns the maximum size of an answer of a kind, in bytes.
func maxBody(k route.Kind) int {
	if k == route.Tags {
		return listLimit
	}
	return bodyLimit
}

// trimError returns the part of an error that is kept.
func trimError(a *Answer) *Answer {
	const longest = 512
	e := errorAnswer(a.Status, a.Code[:min(len(a.Code), longest)], a.Message[:min(len(a.Message), longest)])
	e.Age = max(0, a.Age)
	if after := a.Header.Get("Retry-After"); after != "" && len(after) < longest {
		e.Header = http.Header{"Retry-After": {after}}
	}
	return e
}

// clip returns a body without unused capacity.
func clip(body []byte) []byte {
	if cap(body)-len(body) > len(body)/8 {
		return bytes.Clone(body)
	}
	return body
}

// finishAttempt ends an attempt and passes its answer to the waiting clients. It reports whether the answer must be
// saved. If too many answers are waiting for the disk, this one is saved when it is received again.
func (h *Handler) finishAttempt(u *upstream, c *check, a *attempt, answer *Answer) (save bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(c.attempts, a) {
		return false // the attempt was dropped
	}
	h.cancelAttemptLocked(c, a)
	if answer.ownError && len(c.attempts) > 0 {
		return false // another attempt is still running
	}
	keep := h.updateLocked(c.question, answer)
	if answer.isOK() && !answer.Stale {
		for _, other := range slices.Clone(c.attempts) {
			h.cancelAttemptLocked(c, other)
		}
	}
	c.round.answer = answer
	answer.lease.acquireN(c.round.clients, 0)
	close(c.round.done)
	c.round = &round{done: make(chan struct{})}
	return keep && h.beginSaveLocked(u, answer)
}

// updateLocked updates memory with an answer, and reports whether the answer must be saved.
func (h *Handler) updateLocked(q question, answer *Answer) bool {
	now := time.Now()
	learned := now.Add(-answer.Age)
	switch {
	case h.ctx.Err() != nil, answer.ownError:
		return false
	case !answer.isOK():
		h.errors.put(q, sharedError{answer, learned, learned.Add(h.opts.ShareErrors)}, len(answer.Message))
		return false
	case answer.Stale:
		h.errors.put(q, sharedError{answer, learned, now.Add(h.opts.ShareErrors)}, len(answer.Body))
	default:
		h.errors.remove(q)
	}
	if q.Kind == route.Tags {
		return false
	}
	if answer.digest != "" {
		content := *answer
		content.Age, content.Stale = 0, false
		h.cacheLocked(q.forDigest(answer.digest), &entry{answer: &content, touched: now})
	}
	if q.isByDigest() {
		return true
	}
	before, _ := h.memory.get(q.cacheKey())
	if answer.Stale && before != nil {
		return false // the entry from this process is newer
	}
	k := &entry{digest: answer.digest, touched: now}
	if answer.digest == "" {
		k.answer = answer
	}
	if !answer.Stale {
		k.learned, k.fresh = learned, learned.Add(h.opts.TTL)
	}
	if before != nil {
		k.uniform = before.uniform
		k.saved = before.saved && before.sameContent(k)
	}
	h.cacheLocked(q, k)
	return !k.saved
}

// sameContent reports whether two entries have the same content.
func (e *entry) sameContent(other *entry) bool {
	if e.answer == nil || other.answer == nil {
		return e.answer == other.answer && e.digest == other.digest
	}
	a, b := e.answer, other.answer
	return bytes.Equal(a.Body, b.Body) && a.next == b.next && a.filtered == b.filtered
}

// save saves an answer in the store unless there is a newer one.
func (h *Handler) save(u *upstream, q question, answer *Answer) {
	a := u.archive
	if a.store == nil {
		return
	}
	a.saving.Lock()
	defer a.saving.Unlock()
	h.mu.Lock()
	k, known := h.memory.get(q.cacheKey())
	newest := known && (k.answer == answer || k.answer == nil && k.digest == answer.digest)
	h.mu.Unlock()
	ctx := context.WithoutCancel(h.ctx) // Close waits for this
	saved := false
	switch {
	case q.isByDigest() || q.class != 0:
		a.saveManifest(ctx, q.Repository, answer)
	case !newest:
	case q.Kind == route.Referrers:
		saved = a.saveReferrers(ctx, q.Request, answer)
	default:
		saved = a.saveTag(ctx, q.Repository, q.Tag, answer)
	}
	if saved {
		h.mu.Lock()
		k.saved = true
		h.mu.Unlock()
	}
}
