// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"errors"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

const (
	// failureTTL is how long an error is returned to identical requests.
	failureTTL = 2 * time.Second
	// wrongTTL is how long wrong bytes are remembered as those of an earlier fetch.
	wrongTTL = time.Minute
	// maxFailures is the maximum number of errors to remember.
	maxFailures = 4096
)

// failures holds recent errors by request. An error for one repository does not apply to another.
type failures struct {
	time      time.Duration // how long each is remembered
	byRequest map[route.Request]failure
	order     []expiry // oldest first
}

type failure struct {
	err   *sharedError
	until time.Time
}

// sharedError is an error that is returned to several requests.
type sharedError struct {
	error
	learned time.Time
}

// Unwrap returns the underlying error.
func (e *sharedError) Unwrap() error { return e.error }

// Age returns the time since the error was received.
func (e *sharedError) Age() time.Duration { return time.Since(e.learned) }

// errorAge returns the age of an error, which other replicas send with it.
func errorAge(err error) time.Duration {
	var aged interface{ Age() time.Duration }
	if errors.As(err, &aged) {
		return aged.Age()
	}
	return 0
}

type expiry struct {
	request route.Request
	until   time.Time
}

// add adds the error of a request. The oldest errors are dropped if there are too many.
func (f *failures) add(q route.Request, err error, now time.Time) {
	f.evict(now)
	if f.byRequest == nil {
		f.byRequest = map[route.Request]failure{}
	}
	learned := now.Add(-errorAge(err))
	until := learned.Add(f.time)
	f.byRequest[q] = failure{&sharedError{err, learned}, until}
	f.order = append(f.order, expiry{q, until})
}

// get returns the remembered error of a request, or nil.
func (f *failures) get(q route.Request, now time.Time) error {
	if found := f.byRequest[q]; now.Before(found.until) {
		return found.err
	}
	return nil
}

// evict drops expired errors, and makes room for another error.
func (f *failures) evict(now time.Time) {
	n := 0
	for n < len(f.order) && (!now.Before(f.order[n].until) || len(f.order)-n >= maxFailures) {
		if e := f.order[n]; f.byRequest[e.request].until.Equal(e.until) {
			delete(f.byRequest, e.request)
		}
		n++
	}
	f.order = f.order[n:]
}
