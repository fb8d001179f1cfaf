// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"net"
	"sync"
	"time"
)

// lead is how long clients have to get ready before the first one starts.
const lead = 100 * time.Millisecond

// run runs all groups of a plan at the same time and returns their report.
func run(plan *Plan) (*Report, error) {
	tallies := make([][]*tally, len(plan.Groups))
	bodies := make([][][][]byte, len(plan.Groups))
	for i := range plan.Groups {
		g := &plan.Groups[i]
		tallies[i], bodies[i] = make([]*tally, g.Clients), make([][][]byte, g.Clients)
		for n := range g.Clients {
			tallies[i][n], bodies[i][n] = newTally(), g.bodies(n)
		}
	}
	before, err := processorTime()
	if err != nil {
		return nil, err
	}
	clock := time.Now().Add(lead)
	var group sync.WaitGroup
	for i := range plan.Groups {
		g := &plan.Groups[i]
		for n := range g.Clients {
			group.Go(func() { g.client(n, clock, tallies[i][n], bodies[i][n]) })
		}
	}
	group.Wait()
	wall := time.Since(clock)
	after, err := processorTime()
	if err != nil {
		return nil, err
	}
	report := &Report{Wall: wall.Seconds(), CPU: (after - before).Seconds()}
	for i, some := range tallies {
		for _, t := range some {
			t.check()
		}
		report.Groups = append(report.Groups, summary(plan.Groups[i].Name, some))
	}
	return report, nil
}

// number returns the sequence number within the group of a client's request.
func (g *Group) number(client, turn int) int { return client + turn*g.Clients }

func (g *Group) target(client, turn int) int { return g.number(client, turn) % len(g.Targets) }

// bodies returns buffers for the bodies that a client keeps, with every page touched, or nil if it keeps none.
func (g *Group) bodies(client int) [][]byte {
	if !g.Keep {
		return nil
	}
	var bodies [][]byte
	for turn := range g.Each {
		which := []int{g.target(client, turn)}
		if g.Kind == "pull" {
			which = which[:0]
			for i := range g.Targets {
				which = append(which, i)
			}
		}
		for _, i := range which {
			body := make([]byte, g.Targets[i].Size)
			for at := 0; at < len(body); at += 4096 {
				body[at] = 1
			}
			bodies = append(bodies, body)
		}
	}
	return bodies
}

// client runs one client.
func (g *Group) client(client int, clock time.Time, t *tally, bodies [][]byte) {
	start := clock.Add(seconds(g.Spread * float64(client) / float64(g.Clients)))
	time.Sleep(time.Until(start))
	if g.Kind == "slow-send" {
		g.sendSlowly(g.Endpoints[client%len(g.Endpoints)], clock, t)
		return
	}
	count := 1
	if g.Kind == "pull" {
		count = max(min(parallel, len(g.Targets)-1), 1)
	}
	var sessions []*session
	for range count {
		sessions = append(sessions, newSession(g, client, clock))
		defer sessions[len(sessions)-1].close()
	}
	for turn := 0; g.continues(turn, clock); turn++ {
		began := g.begin(start, client, turn)
		credential := g.credential(g.number(client, turn))
		if g.Kind == "pull" {
			var some [][]byte
			if bodies != nil {
				some = bodies[turn*len(g.Targets):]
			}
			pull(sessions, t, credential, some, began)
			// The next pull is that of another node.
			for _, s := range sessions {
				s.close()
			}
			continue
		}
		var body []byte
		if bodies != nil {
			body = bodies[turn]
		}
		sessions[0].get(t, g.Targets[g.target(client, turn)], credential, body, began)
	}
}

// continues reports whether a client makes another request.
func (g *Group) continues(turn int, clock time.Time) bool {
	if g.Each > 0 {
		return turn < g.Each
	}
	return time.Since(clock) < seconds(g.Seconds)
}

// begin waits until a paced request is due, and returns its start time. If the client is late because of the previous
// response, begin returns the time at which the request was due. Otherwise a slow server would appear fast, because it
// gets fewer requests (coordinated omission).
func (g *Group) begin(start time.Time, client, turn int) time.Time {
	now := time.Now()
	if g.PerSecond <= 0 {
		return now
	}
	due := start.Add(seconds(float64(g.number(client, turn)) / g.PerSecond))
	if wait := due.Sub(now); wait > 0 {
		time.Sleep(wait)
		return time.Now()
	}
	return due
}

// sendSlowly sends the header of a request byte by byte. After the server closes the connection, it waits for the time
// of ten bytes before it opens a new one. Reconnecting at once would be a different attack.
func (g *Group) sendSlowly(endpoint string, clock time.Time, t *tally) {
	every := time.Duration(g.SendEveryMS) * time.Millisecond
	end := clock.Add(seconds(g.Seconds))
	request := header(g, endpoint, "GET", g.Targets[0], "")
	request = append(request[:len(request)-2], "X-Slow: "...)
	for time.Now().Before(end) {
		conn, err := dial(g, endpoint)
		if err != nil {
			t.errors["connect: "+reason(err)]++
			time.Sleep(every)
			continue
		}
		t.connections++
		closed := trickle(conn, request, every, end)
		conn.Close()
		if closed {
			t.closed++
			time.Sleep(min(10*every, time.Until(end)))
		}
	}
}

// trickle sends one byte at a time until end. It reports whether the server closed the connection before that.
func trickle(conn net.Conn, request []byte, every time.Duration, end time.Time) bool {
	answer := make([]byte, 512)
	for i := 0; time.Now().Before(end); i++ {
		next := []byte{'x'}
		if i < len(request) {
			next = request[i : i+1]
		}
		if _, err := conn.Write(next); err != nil {
			return true
		}
		// Wait by reading: a response or the end of the connection is noticed before the next byte is sent.
		pause := min(every, max(time.Until(end), time.Millisecond))
		if err := conn.SetReadDeadline(time.Now().Add(pause)); err != nil {
			return true
		}
		if _, err := conn.Read(answer); err == nil || !isTimeout(err) {
			return true
		}
	}
	return false
}

// isTimeout reports whether an error is a timeout.
func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}
