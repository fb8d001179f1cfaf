// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// refreshEvery is the interval between lookups, with a jitter of 20 %.
	refreshEvery = 5 * time.Second
	// lookupLimit is how long a lookup may take.
	lookupLimit = 4 * time.Second
)

// refresh looks up the members until the Peers are closed.
func (p *Peers) refresh() {
	missing := map[string]bool{}
	failing := false
	for first := true; ; first = false {
		ctx, cancel := context.WithTimeout(p.ctx, lookupLimit)
		found, err := p.lookUp(ctx)
		cancel()
		switch {
		case p.ctx.Err() != nil:
			return
		case err != nil:
			p.counts.lookupFailures.Add(1)
			if !failing {
				p.log.Warn("Cannot look up the peers; keeping the last known members", "service", p.service, "error", err)
			}
		default:
			missing = p.updateMembers(found, missing)
		}
		failing = err != nil
		if first {
			close(p.lookedUp)
		}
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(refreshEvery*4/5 + rand.N(refreshEvery*2/5)):
		}
	}
}

// lookUpService returns the members of the Service from DNS.
func (p *Peers) lookUpService(ctx context.Context) ([]Member, error) {
	_, records, err := p.resolver.LookupSRV(ctx, "peers", "tcp", p.service)
	if err != nil && len(records) == 0 {
		return nil, err
	}
	return membersOf(records), nil
}

// membersOf returns the members in SRV records, sorted by name. A member's name is the first label of its DNS name.
func membersOf(records []*net.SRV) []Member {
	var found []Member
	for _, r := range records {
		label, _, _ := strings.Cut(strings.ToLower(r.Target), ".")
		if isName(label) && r.Port != 0 {
			// Keep the trailing dot, so that the search domains of resolv.conf are not tried.
			found = append(found, Member{label, net.JoinHostPort(r.Target, strconv.Itoa(int(r.Port)))})
		}
	}
	// DNS servers shuffle records. Sort them, so that members beyond the limit are always the same.
	slices.SortFunc(found, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address))
	})
	found = slices.CompactFunc(found, func(a, b Member) bool { return a.Name == b.Name })
	return found[:min(len(found), membersLimit)]
}

// updateMembers replaces the members with those in found. It keeps and returns members that are missing for the first
// time.
func (p *Peers) updateMembers(found []Member, missingBefore map[string]bool) (missing map[string]bool) {
	missing = map[string]bool{}
	all := []*member{p.self}
	listed := map[string]bool{p.self.name: true}
	for _, f := range found {
		if listed[f.Name] {
			continue
		}
		listed[f.Name] = true
		m := p.find(f.Name)
		if m == nil {
			m = newMember(p, f.Name)
			p.log.Info("New peer", "name", f.Name, "address", f.Address)
		}
		m.target.Store(&f.Address)
		all = append(all, m)
	}
	var dropped []*member
	for _, m := range p.members() {
		switch {
		case listed[m.name]:
		case missingBefore[m.name] || len(all) >= membersLimit:
			dropped = append(dropped, m)
		default:
			missing[m.name] = true
			all = append(all, m)
		}
	}
	p.setMembers(all)
	for _, m := range dropped {
		m.drop()
		p.log.Info("Peer is no longer listed", "name", m.name)
	}
	return missing
}
