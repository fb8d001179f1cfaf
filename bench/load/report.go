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
	CPU    float64       `json:"cpu"`  // seconds of CPU time of the clients, without hashing of kept bodies
}

// A GroupReport holds the results of the clients of one group. Times are in seconds.
type GroupReport struct {
	Name     string         `json:"name"`
	Requests int            `json:"requests"` // requests or pulls
	Failed   int            `json:"failed"`
	Errors   map[string]int `json:"errors"`
	Statuses map[int]int    `json:"statuses"`
	Bytes    int64          `json:"bytes"`   // bytes of bodies
	Hashed   int            `json:"hashed"`  // number of bodies whose digest was compared
	Counted  int            `json:"counted"` // number of bodies without a known digest, or with another status
	Wall     float64        `json:"wall"`    // from the first start to the last end
	Latency  Percentiles    `json:"latency"`
	First    Percentiles    `json:"first_byte"` // first byte of a body, from the start of the request; for a pull, the slowest one
	End      Percentiles    `json:"end"`        // ends of requests, from the start of the plan
	// Only for slow senders.
	Connections int `json:"connections,omitempty"`
	Closed      int `json:"closed,omitempty"` // connections closed by the server
}

// Percentiles are nearest-rank percentiles of a set of times.
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

// A kept body is hashed after all clients are done.
type kept struct {
	body   []byte
	digest string
}

func newTally() *tally { return &tally{errors: map[string]int{}, statuses: map[int]int{}} }

func (t *tally) fail(err error) {
	t.failed++
	t.errors[err.Error()]++
}

// done records the times of a request or pull, each relative to the start of the plan.
func (t *tally) done(began, first, ended time.Duration) {
	if first == 0 { // no byte arrived
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

// processorTime returns the CPU time used by this process.
func processorTime() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("read the CPU time: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}
