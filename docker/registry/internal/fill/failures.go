// SPDX-License-Identifier: GPL-3.0-or-later

package fill

import (
	"time"

	"pullthrough.registry_cache/docker/registry/internal/route"
)

const (
	// failureTime is how long an error answers the same request.
	failureTime = 2 * time.Second
	// failuresLimit is how many errors are remembered at a time.
	failuresLimit = 4096
)

// failures are the errors of the last moments, by request: what is true of one repository may be wrong of another.
type failures struct {
	byRequest map[route.Request]failure
	order     []expiry // oldest first
}

type failure struct {
	err   error
	until time.Time
}

type expiry struct {
	request route.Request
	until   time.Time
}

// remember keeps an error for a moment. Where there are too many, the oldest go.
func (f *failures) remember(q route.Request, err error, now time.Time) {
	f.forget(now)
	if f.byRequest == nil {
		f.byRequest = map[route.Request]failure{}
	}
	until := now.Add(failureTime)
	f.byRequest[q] = failure{err, until}
	f.order = append(f.order, expiry{q, until})
}

// recall returns the error of a request, nil if there is none.
func (f *failures) recall(q route.Request, now time.Time) error {
	if found := f.byRequest[q]; now.Before(found.until) {
		return found.err
	}
	return nil
}

// forget drops what is over, and makes room for one.
func (f *failures) forget(now time.Time) {
	n := 0
	for n < len(f.order) && (!now.Before(f.order[n].until) || len(f.order)-n >= failuresLimit) {
		if e := f.order[n]; f.byRequest[e.request].until.Equal(e.until) {
			delete(f.byRequest, e.request)
		}
		n++
	}
	f.order = f.order[n:]
}
