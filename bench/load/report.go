// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"math"
	"slices"
	"syscall"
	"time"
)

// A Report holds the results of all groups.
type Report struct {
	Groups []GroupReport `json:"groups"`
	Wall   float64       `json:"wall"` // seconds from the first start to the last end
	CPU    float64       `json:"cpu"`  // seconds of processor time of these clients, hashing of kept bodies left out
}

// A GroupReport holds the results of the clients of one group. Times are in seconds.
type GroupReport struct {
	Name     string         `json:"name"`
	Requests int            `json:"requests"` // or pulls
	Failed   int            `json:"failed"`
	Errors   map[string]int `json:"errors"`
	Statuses map[int]int    `json:"statuses"`
	Bytes    int64          `json:"bytes"`   // of bodies
	Hashed   int            `json:"hashed"`  // bodies whose digest was compared
	Counted  int            `json:"counted"` // bodies without a known digest, or with another status
	Wall     float64        `json:"wall"`    // from the first start to the last end
	Latency  Percentiles    `json:"latency"`
	First    Percentiles    `json:"first_byte"` // the first byte of a body, from the start of the request; of a pull, its slowest
	End      Percentiles    `json:"end"`        // of requests, from the start of the plan
	// Slow senders only.
	Connections int `json:"connections,omitempty"`
	Closed      int `json:"closed,omitempty"` // by the server
}

// Percentiles are those of a set of times, by nearest rank.
type Percentiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func percentiles(times []time.Duration) Percentiles {
	if len(times) == 0 {
		return Percentiles{}
	}
	slices.Sort(times)
	at := func(part float64) float64 {
		return times[max(int(math.Ceil(part*float64(len(times)))), 1)-1].Seconds()
	}
	return Percentiles{at(0.5), at(0.9), at(0.99), at(1)}
}

// A tally holds the results of one client.
type tally struct {
	requests, failed, hashed, counted, connections, closed int

	errors         map[string]int
	statuses       map[int]int
	bytes          int64
	latency, first []time.Duration
	end            []time.Duration
	started, ended time.Duration // since the start of the plan
	startedOnce    bool
	kept           []kept
}

// A kept body is hashed when all clients are done.
type kept struct {
	body   []byte
	digest string
}

func newTally() *tally { return &tally{errors: map[string]int{}, statuses: map[int]int{}} }

func (t *tally) fail(err error) {
	t.failed++
	t.errors[err.Error()]++
}

// done records the times of a request or pull, each since the start of the plan.
func (t *tally) done(began, first, ended time.Duration) {
	if first == 0 { // no byte ever came
		first = ended - began
	}
	t.requests++
	t.latency = append(t.latency, ended-began)
	t.first = append(t.first, first)
	t.end = append(t.end, ended)
	if !t.startedOnce {
		t.started, t.startedOnce = began, true
	}
	t.ended = ended
}

// check hashes the kept bodies and counts those with a wrong digest.
func (t *tally) check() {
	for _, k := range t.kept {
		if err := compareDigest(k.body, k.digest); err != nil {
			t.fail(err)
		}
	}
}

func summary(name string, tallies []*tally) GroupReport {
	r := GroupReport{Name: name, Errors: map[string]int{}, Statuses: map[int]int{}}
	var latency, first, end []time.Duration
	var started, ended time.Duration = math.MaxInt64, 0
	for _, t := range tallies {
		r.Requests, r.Failed, r.Bytes = r.Requests+t.requests, r.Failed+t.failed, r.Bytes+t.bytes
		r.Hashed, r.Counted = r.Hashed+t.hashed, r.Counted+t.counted
		r.Connections, r.Closed = r.Connections+t.connections, r.Closed+t.closed
		latency, first, end = append(latency, t.latency...), append(first, t.first...), append(end, t.end...)
		for text, n := range t.errors {
			r.Errors[text] += n
		}
		for status, n := range t.statuses {
			r.Statuses[status] += n
		}
		if t.startedOnce {
			started, ended = min(started, t.started), max(ended, t.ended)
		}
	}
	if ended > started {
		r.Wall = (ended - started).Seconds()
	}
	r.Latency, r.First, r.End = percentiles(latency), percentiles(first), percentiles(end)
	return r
}

// processorTime returns the time that this process has used.
func processorTime() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("read the processor time: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}
