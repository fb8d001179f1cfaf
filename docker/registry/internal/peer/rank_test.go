// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// cluster returns the Peers of replica 0 of n.
func cluster(t testing.TB, n int) *Peers {
	t.Helper()
	others := []Member{}
	for i := 1; i < n; i++ {
		others = append(others, Member{fmt.Sprintf("registry-cache-%d", i), "127.0.0.1:1"})
	}
	return newPeers(t, "registry-cache-0", others...)
}

func keys(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = digest.FromString(fmt.Sprint("layer ", i)).String()
	}
	return all
}

func names(ranks []Rank) []string {
	var all []string
	for _, r := range ranks {
		all = append(all, r.Name)
	}
	return all
}

// TestRankIsTheSameInEveryVersion fails if the hash changes: during an upgrade, old and new replicas would fetch
// content twice.
func TestRankIsTheSameInEveryVersion(t *testing.T) {
	p := cluster(t, 5)
	for key, want := range map[string]string{
		"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855": "0 3 2 1 4",
		"us-central1-docker.pkg.dev/v2/project/repository/image/manifests/latest": "3 0 4 1 2",
	} {
		got := strings.ReplaceAll(strings.Join(names(p.Rank(key)), " "), "registry-cache-", "")
		if got != want {
			t.Errorf("%s: %s, not %s", key, got, want)
		}
	}
}

func TestRankIsTheSameForEveryReplica(t *testing.T) {
	a := newPeers(t, "a", Member{"b", "127.0.0.1:1"}, Member{"c", "127.0.0.1:1"})
	b := newPeers(t, "b", Member{"c", "127.0.0.1:1"}, Member{"a", "127.0.0.1:1"})
	for _, key := range keys(100) {
		if !slices.Equal(names(a.Rank(key)), names(b.Rank(key))) {
			t.Fatalf("%s: %v and %v", key, a.Rank(key), b.Rank(key))
		}
		for _, r := range a.Rank(key) {
			if r.Self != (r.Name == "a") {
				t.Fatalf("not itself: %v", r)
			}
		}
	}
}

// TestSpread compares the distribution of keys with a random one. A stateless hash cannot do better.
func TestSpread(t *testing.T) {
	p := cluster(t, 5)
	all := keys(48 * 400)
	total := map[string]int{}
	even := 0
	for some := range slices.Chunk(all, 48) {
		owned := map[string]int{}
		for _, key := range some {
			name := p.Rank(key)[0].Name
			owned[name]++
			total[name]++
		}
		least, most := 48, 0
		for _, n := range owned {
			least, most = min(least, n), max(most, n)
		}
		if len(owned) == 5 && least >= 6 && most <= 13 {
			even++
		}
	}
	// In a multinomial distribution, 49 % of the sets are that even.
	t.Logf("%d of 400 sets of 48 keys are 6 to 13 per member", even)
	if even < 150 {
		t.Errorf("%d of 400 sets of 48 keys are 6 to 13 per member: chance does better", even)
	}
	mean, chi := float64(len(all))/5, 0.0
	for _, n := range total {
		chi += (float64(n) - mean) * (float64(n) - mean) / mean
	}
	if chi > 18.5 { // p = 0.001 for 4 degrees of freedom
		t.Errorf("unevenly spread: %v", total)
	}
}

func TestFewKeysMove(t *testing.T) {
	four, five := cluster(t, 4), cluster(t, 5)
	moved := 0
	all := keys(5000)
	for _, key := range all {
		before, after := four.Rank(key)[0].Name, five.Rank(key)[0].Name
		if before == after {
			continue
		}
		moved++
		if after != "registry-cache-4" {
			t.Fatalf("%s moved from %s to %s, which both were there before", key, before, after)
		}
		if second := five.Rank(key)[1].Name; second != before {
			t.Fatalf("%s would go to %s, not back to %s", key, second, before)
		}
	}
	if share := float64(moved) / float64(len(all)); share < 0.17 || share > 0.23 {
		t.Errorf("%.3f of the keys moved to the fifth member", share)
	}
}

func TestRankOmitsMembersThatAreOut(t *testing.T) {
	p := cluster(t, 3)
	p.find("registry-cache-1").markOut("test")
	p.find("registry-cache-2").markSuspect(0, "test")
	p.self.markOut("never")
	for _, key := range keys(20) {
		ranks := p.Rank(key)
		if len(ranks) != 2 {
			t.Fatalf("%v", ranks)
		}
		for _, r := range ranks {
			if r.Suspect != (r.Name == "registry-cache-2") {
				t.Errorf("%v", r)
			}
		}
	}
}

func BenchmarkRank(b *testing.B) {
	for _, n := range []int{5, 50} {
		p := cluster(b, n)
		key := keys(1)[0]
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				p.Rank(key)
			}
		})
	}
}
