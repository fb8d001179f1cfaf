// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// checkTime is the duration of a check with a fake clock. It is about that of bcrypt with cost 12.
const checkTime = 250 * time.Millisecond

var (
	here  = netip.MustParseAddr("192.0.2.1")
	there = netip.MustParseAddr("192.0.2.2")
)

// world is a Checker in a synctest bubble. Its checks take checkTime on the fake clock.
type world struct {
	*Checker
	t    *testing.T
	path string
	log  buffer

	takes         time.Duration // duration of a check; initially checkTime
	running, most atomic.Int32
	calls         atomic.Int32
	mu            sync.Mutex
	hashes        []string
}

// buffer is a log that can be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text []byte
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	return len(p), nil
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// inWorld runs a test with a Checker for these lines. The test fails if a goroutine outlives Close.
func inWorld(t *testing.T, lines []string, test func(*testing.T, *world)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "htpasswd")
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, path: path, takes: checkTime}
		w.write(lines...)
		var err error
		if w.Checker, err = newChecker(Options{Path: path, Log: slog.New(slog.NewTextHandler(&w.log, nil))}, w.compare); err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		test(t, w)
	})
}

func (w *world) compare(ctx context.Context, hash string, password []byte) bool {
	w.calls.Add(1)
	w.most.Store(max(w.most.Load(), w.running.Add(1)))
	defer w.running.Add(-1)
	w.mu.Lock()
	w.hashes = append(w.hashes, hash)
	w.mu.Unlock()
	select {
	case <-time.After(w.takes):
		return bcrypt.CompareHashAndPassword([]byte(hash), password) == nil
	case <-ctx.Done():
		return false
	}
}

// write replaces the file atomically, like an editor or the kubelet.
func (w *world) write(lines ...string) {
	w.t.Helper()
	if err := os.WriteFile(w.path+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(w.path+".new", w.path); err != nil {
		w.t.Fatal(err)
	}
}

// reload replaces the file and waits until the Checker has read it.
func (w *world) reload(lines ...string) {
	w.t.Helper()
	w.write(lines...)
	time.Sleep(time.Second)
	synctest.Wait()
}

func (w *world) ask(name, password string) Result {
	return w.Check(w.t.Context(), basic(name, password), here)
}

// want checks a credential. It fails the test if the verdict or the number of bcrypt checks is wrong.
func (w *world) want(verdict Verdict, checks int, name, password string) {
	w.t.Helper()
	before := w.calls.Load()
	r := w.ask(name, password)
	if r.Verdict != verdict || int(w.calls.Load()-before) != checks {
		w.t.Errorf("%s: verdict %v after %d checks, want %v after %d", name, r.Verdict, w.calls.Load()-before, verdict, checks)
	}
	if (r.Verdict == Good) != (r.User == name) {
		w.t.Errorf("%s: verdict %v with user %q", name, r.Verdict, r.User)
	}
}

func basic(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

// line returns a line of the file with a cheap hash of the password.
func line(name, password string) string { return lineOfCost(name, password, minCost) }

func lineOfCost(name, password string, cost int) string {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		panic(err)
	}
	return name + ":" + string(hash)
}

// twelve returns the lines of user0 to user11, whose passwords are pw0 to pw11.
func twelve() (lines []string) {
	for i := range 12 {
		lines = append(lines, line(fmt.Sprint("user", i), fmt.Sprint("pw", i)))
	}
	return lines
}

func TestVerdicts(t *testing.T) {
	inWorld(t, []string{"# comment", "", line("ann", "old"), line("bob", "b"), line("ann", "a:b")}, func(t *testing.T, w *world) {
		w.want(Good, 1, "bob", "b")
		w.want(Good, 1, "ann", "a:b")
		w.want(Bad, 1, "ann", "old") // the last line wins
		w.want(Bad, 1, "bob", "x")
		w.want(Bad, 1, "nobody", "b")
		w.want(Bad, 1, "Bob", "b")
		for _, header := range []string{"", "Basic", "Bearer x", basic("bob", strings.Repeat("x", 73)), basic("bob", "b\x00")} {
			if r := w.Check(t.Context(), header, here); r != (Result{}) {
				t.Errorf("%q: %+v", header, r)
			}
		}
		if n := w.calls.Load(); n != 6 {
			t.Errorf("%d checks, want 6: malformed headers cost none", n)
		}
		want := Stats{Users: 2, Good: 2, Bad: 9, Matched: 2, Mismatched: 4}
		if s := w.Stats(); s != want {
			t.Errorf("%+v, want %+v", s, want)
		}
	})
}

func TestNoPasswordBeyond72Bytes(t *testing.T) {
	long := strings.Repeat("x", 72)
	inWorld(t, []string{line("ann", long)}, func(t *testing.T, w *world) {
		w.want(Bad, 0, "ann", long+"y") // bcrypt itself would accept it
		w.want(Good, 1, "ann", long)
		w.want(Bad, 0, "ann", long+"y")
	})
}

func TestProofIsValidAsLongAsTheHash(t *testing.T) {
	ann, bob := line("ann", "a"), line("bob", "b")
	inWorld(t, []string{ann, bob}, func(t *testing.T, w *world) {
		w.want(Good, 1, "ann", "a")
		w.want(Good, 1, "bob", "b")
		time.Sleep(time.Hour)
		w.want(Good, 0, "ann", "a")
		w.reload(line("cat", "c"), ann, line("bob", "b2"))
		w.want(Good, 0, "ann", "a")
		w.want(Bad, 1, "bob", "b")
		w.want(Good, 1, "bob", "b2")
		w.want(Good, 1, "cat", "c")
		w.reload(bob)
		w.want(Bad, 1, "ann", "a")
		w.want(Good, 1, "bob", "b")
	})
}

func TestSameHashOfAnotherLineKeepsTheProof(t *testing.T) {
	ann := line("ann", "a")
	inWorld(t, []string{ann}, func(t *testing.T, w *world) {
		w.want(Good, 1, "ann", "a")
		w.reload(line("ann", "other"), "# moved", ann)
		w.want(Good, 0, "ann", "a")
		// The proof is not valid for another name with the same hash.
		w.reload(ann, "bob"+strings.TrimPrefix(ann, "ann"))
		w.want(Good, 1, "bob", "a")
	})
}

func TestRotationOverTwoNames(t *testing.T) {
	old, next := line("team", "old"), line("team.g1", "new")
	inWorld(t, []string{old}, func(t *testing.T, w *world) {
		w.want(Good, 1, "team", "old")
		w.want(Bad, 1, "team.g1", "new")
		w.reload(old, next)
		w.want(Good, 0, "team", "old")
		w.want(Good, 1, "team.g1", "new") // refused before, good now
		w.reload(next)
		w.want(Bad, 1, "team", "old")
		w.want(Good, 0, "team.g1", "new")
	})
}

func TestRefusedCredentialIsRememberedForItsHash(t *testing.T) {
	inWorld(t, []string{line("ann", "a")}, func(t *testing.T, w *world) {
		w.want(Bad, 1, "ann", "b") // in ann's lane
		w.want(Bad, 0, "ann", "b")
		w.want(Bad, 1, "nobody", "b") // in the shared lane
		w.want(Bad, 0, "nobody", "b")
		w.want(Good, 1, "ann", "a")
		w.want(Bad, 1, "ann", "b") // in the shared lane, since ann's password is proven
		w.want(Bad, 0, "ann", "b")
		w.reload(line("ann", "b"), line("nobody", "b"))
		w.want(Good, 1, "ann", "b")
		w.want(Good, 1, "nobody", "b")
		w.want(Bad, 1, "ann", "a")
	})
}

func TestGuessesEvictNoProof(t *testing.T) {
	inWorld(t, twelve(), func(t *testing.T, w *world) {
		for i := range 12 {
			w.want(Good, 1, fmt.Sprint("user", i), fmt.Sprint("pw", i))
		}
		var guesses sync.WaitGroup
		for i := range 2000 {
			guesses.Go(func() {
				if r := w.ask(fmt.Sprint("user", i%20), fmt.Sprint("guess", i)); r.Verdict == Good {
					t.Error("a guess is good")
				}
			})
		}
		for i := range 12 {
			at := time.Now()
			if r := w.ask(fmt.Sprint("user", i), fmt.Sprint("pw", i)); r.Verdict != Good || time.Since(at) > 0 {
				t.Errorf("user%d: %v after %v", i, r.Verdict, time.Since(at))
			}
		}
		guesses.Wait()
		for i := range 12 {
			w.want(Good, 0, fmt.Sprint("user", i), fmt.Sprint("pw", i))
		}
	})
}

func TestFirstRequestsAreCheckedOneAfterAnother(t *testing.T) {
	inWorld(t, twelve(), func(t *testing.T, w *world) {
		began := time.Now()
		var clients sync.WaitGroup
		for i := range 12 * 5 {
			clients.Go(func() {
				if r := w.ask(fmt.Sprint("user", i%12), fmt.Sprint("pw", i%12)); r.Verdict != Good {
					t.Errorf("user%d: %v", i%12, r.Verdict)
				}
			})
		}
		clients.Wait()
		if n, took := w.calls.Load(), time.Since(began); n != 12 || took != 12*checkTime {
			t.Errorf("%d checks in %v, want 12 in %v", n, took, 12*checkTime)
		}
		if w.most.Load() != 1 {
			t.Errorf("%d checks at once", w.most.Load())
		}
	})
}

// TestFirstRequestsDuringAFlood uses one address for all clients, as behind a NodePort.
func TestFirstRequestsDuringAFlood(t *testing.T) {
	inWorld(t, twelve(), func(t *testing.T, w *world) {
		for i := range 6 {
			w.want(Good, 1, fmt.Sprint("user", i), fmt.Sprint("pw", i))
		}
		var guesses, clients sync.WaitGroup
		for g := range 50 {
			guesses.Go(func() {
				for i := range 60 {
					// Users with a proof, and unknown names.
					name := fmt.Sprint("user", rand.IntN(6))
					if i%2 == 0 {
						name = fmt.Sprint("nobody", g, i)
					}
					if r := w.ask(name, fmt.Sprint("guess", g, i)); r.Verdict == Good {
						t.Error("a guess is good")
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		var mu sync.Mutex
		var times []time.Duration
		for i := range 12 {
			clients.Go(func() {
				time.Sleep(time.Second)
				for range 100 {
					at := time.Now()
					if r := w.ask(fmt.Sprint("user", i), fmt.Sprint("pw", i)); r.Verdict != Good {
						t.Errorf("user%d: %v", i, r.Verdict)
					}
					mu.Lock()
					times = append(times, time.Since(at))
					mu.Unlock()
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
		clients.Wait()
		guesses.Wait()
		slices.Sort(times)
		// The six first requests wait for the guess that is being checked, and for each other.
		if worst := times[len(times)-1]; worst > 7*checkTime {
			t.Errorf("a first contact took %v", worst)
		}
		if p99 := times[len(times)*99/100]; p99 > 0 {
			t.Errorf("p99 of the known users is %v", p99)
		}
		t.Logf("%+v", w.Stats())
	})
}

// guess makes clients guess passwords of the names, one after the other, until stop is called.
func (w *world) guess(clients int, names ...string) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var guesses sync.WaitGroup
	for g := range clients {
		guesses.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				w.Check(ctx, basic(names[(g+i)%len(names)], fmt.Sprint("guess", g, i)), here)
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	return func() { cancel(); guesses.Wait() }
}

// wantSoon checks a credential. It fails the test if the result is not Good in time.
func (w *world) wantSoon(most time.Duration, name, password string, source netip.Addr) {
	w.t.Helper()
	at := time.Now()
	if r := w.Check(w.t.Context(), basic(name, password), source); r.Verdict != Good || time.Since(at) > most {
		w.t.Errorf("%s: %+v after %v", name, r, time.Since(at))
	}
}

func TestFirstRequestDuringGuessesFromElsewhere(t *testing.T) {
	inWorld(t, []string{line("ann", "a"), line("bob", "b")}, func(t *testing.T, w *world) {
		stop := w.guess(100, "ann")
		time.Sleep(time.Minute)
		w.wantSoon(2*checkTime, "bob", "b", here)
		w.wantSoon(10*checkTime, "ann", "a", there)
		stop()
	})
}

// TestFirstRequestDuringGuesses uses the same address for guesses and user, and bcrypt cost 10.
func TestFirstRequestDuringGuesses(t *testing.T) {
	inWorld(t, []string{line("ann", "a")}, func(t *testing.T, w *world) {
		w.takes = 60 * time.Millisecond
		stop := w.guess(50, "ann")
		time.Sleep(2 * time.Minute)
		w.wantSoon(20*time.Second, "ann", "a", here)
		w.wantSoon(0, "ann", "a", here)
		stop()
	})
}

// TestColdStartInAFlood checks a start during guesses of twelve names from the users' address.
func TestColdStartInAFlood(t *testing.T) {
	inWorld(t, twelve(), func(t *testing.T, w *world) {
		names := make([]string, 12)
		for i := range names {
			names[i] = fmt.Sprint("user", i)
		}
		stop := w.guess(50, names...)
		time.Sleep(5 * time.Second)
		var clients sync.WaitGroup
		for i, name := range names {
			clients.Go(func() { w.wantSoon(20*time.Second, name, fmt.Sprint("pw", i), here) })
		}
		clients.Wait()
		stop()
	})
}

func TestGuessesForProvenUserUseTheDecoy(t *testing.T) {
	inWorld(t, []string{line("ann", "a")}, func(t *testing.T, w *world) {
		var clients sync.WaitGroup
		clients.Go(func() { w.wantSoon(checkTime, "ann", "a", here) })
		synctest.Wait()
		for i := range 5 { // these wait in ann's lane
			clients.Go(func() { w.ask("ann", fmt.Sprint("guess", i)) })
		}
		clients.Wait()
		for _, hash := range w.hashes[1:] {
			if hash == w.hashes[0] {
				t.Error("a guess was checked against the hash of a user with a proof")
			}
		}
		if len(w.hashes) != 6 {
			t.Errorf("%d checks, want 6", len(w.hashes))
		}
	})
}

func TestIdenticalCredentialsShareACheck(t *testing.T) {
	inWorld(t, []string{line("ann", "a")}, func(t *testing.T, w *world) {
		var clients sync.WaitGroup
		for i := range 300 {
			clients.Go(func() {
				password, want := "a", Good
				if i%3 == 0 {
					password, want = "wrong", Bad
				}
				if r := w.ask("ann", password); r.Verdict != want {
					t.Errorf("%v", r.Verdict)
				}
			})
		}
		clients.Wait()
		if n := w.calls.Load(); n != 2 {
			t.Errorf("%d checks, want 2", n)
		}
	})
}

func TestUnknownNamesCostTheMostCommonCost(t *testing.T) {
	lines := []string{lineOfCost("a", "x", 6), lineOfCost("b", "x", 5), lineOfCost("c", "x", 5)}
	inWorld(t, lines, func(t *testing.T, w *world) {
		w.want(Good, 1, "c", "x")
		w.want(Bad, 1, "nobody", "x")
		w.want(Bad, 1, "c", "guess")
		for _, hash := range w.hashes[1:] {
			if n, err := bcrypt.Cost([]byte(hash)); n != 5 || err != nil {
				t.Errorf("cost %d (%v), want 5", n, err)
			}
		}
		w.reload(lineOfCost("a", "x", 6), lineOfCost("b", "x", 5))
		w.want(Bad, 1, "nobody", "y")
		if n, _ := bcrypt.Cost([]byte(w.hashes[3])); n != 6 {
			t.Errorf("cost %d, want 6", n)
		}
	})
}

func TestUnknownNameIsRefusedRegardlessOfBcrypt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(path, []byte(line("ann", "a")), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := newChecker(Options{Path: path}, func(context.Context, string, []byte) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, ask := range []struct {
		name, password string
		want           Verdict
	}{{"nobody", "x", Bad}, {"ann", "a", Good}, {"ann", "x", Bad}} {
		if r := c.Check(t.Context(), basic(ask.name, ask.password), netip.Addr{}); r.Verdict != ask.want {
			t.Errorf("%+v: %v", ask, r.Verdict)
		}
	}
}

func TestGuessesHaveABudget(t *testing.T) {
	for _, takes := range []time.Duration{60 * time.Millisecond, checkTime, 4 * time.Second} {
		for name, limit := range map[string]limits{"ann": userLimits, "nobody": guessLimits} {
			inWorld(t, []string{line("ann", "a"), line("bob", "b")}, func(t *testing.T, w *world) {
				w.takes = takes
				const period = 100 * time.Second
				began := time.Now()
				var guesses sync.WaitGroup
				for g := range 100 {
					guesses.Go(func() {
						for i := 0; time.Since(began) < period; i++ {
							r := w.ask(name, fmt.Sprint("guess", g, i))
							if r.Verdict == Good || (r.Verdict == TryLater) != (r.RetryAfter >= time.Second && r.RetryAfter <= time.Minute) {
								t.Errorf("%+v", r)
							}
							time.Sleep(3 * time.Second)
						}
					})
				}
				guesses.Wait()
				checks := float64(w.calls.Load())
				budget := func(period time.Duration) float64 {
					seconds := limit.seconds + limit.share*period.Seconds() + takes.Seconds()
					return min(limit.failures+limit.rate*period.Seconds(), seconds/takes.Seconds())
				}
				// All guesses have the same source, so the reserve is not used. The last ones wait until after the
				// period.
				if most := budget(period + w.maxWait); checks > most+1 || checks < budget(period)-limit.reserve-1 {
					t.Errorf("%s: %v checks of %v in %v, want at most %v", name, checks, takes, period, most)
				}
				if w.Stats().TryLater == 0 {
					t.Errorf("%s: no guess was turned away", name)
				}
				time.Sleep(10 * time.Minute)
				w.want(Bad, 1, name, "one more")
			})
		}
	}
}

func TestHopelessGuessIsRejectedAtOnce(t *testing.T) {
	inWorld(t, []string{line("ann", "a")}, func(t *testing.T, w *world) {
		w.takes = 10 * time.Second
		w.want(Bad, 1, "nobody", "x")
		at := time.Now()
		r := w.ask("nobody", "y")
		if r.Verdict != TryLater || time.Since(at) > 0 || r.RetryAfter <= w.maxWait {
			t.Errorf("%+v after %v", r, time.Since(at))
		}
		time.Sleep(r.RetryAfter)
		w.want(Bad, 1, "nobody", "y")
	})
}

func TestMistypedPasswordIsNotBlockedByOthers(t *testing.T) {
	inWorld(t, []string{line("ann", "a"), line("bob", "b")}, func(t *testing.T, w *world) {
		w.queue.userTime.take(time.Now(), 1000)
		w.queue.guessTime.take(time.Now(), 1000)
		w.want(Bad, 1, "bob", "mistyped")
		w.wantSoon(calmTime+checkTime, "bob", "b", here)
	})
}

func TestUserAddedWhileWaiting(t *testing.T) {
	ann := line("ann", "a")
	inWorld(t, []string{ann}, func(t *testing.T, w *world) {
		w.queue.guesses.failures.take(time.Now(), guessLimits.failures+1)
		w.write(ann, line("bob", "b"))
		w.wantSoon(time.Second+checkTime, "bob", "b", here)
	})
}

func TestWaitEnds(t *testing.T) {
	inWorld(t, []string{line("ann", "a"), line("bob", "b")}, func(t *testing.T, w *world) {
		var clients sync.WaitGroup
		ask := func(ctx context.Context, name, password string, want Verdict, after time.Duration) {
			clients.Go(func() {
				at := time.Now()
				r := w.Check(ctx, basic(name, password), here)
				if r.Verdict != want || time.Since(at) != after {
					t.Errorf("%s: %v after %v, want %v after %v", name, r.Verdict, time.Since(at), want, after)
				}
			})
			synctest.Wait()
		}
		soon, cancel := context.WithTimeout(t.Context(), checkTime/2)
		defer cancel()
		ask(soon, "ann", "a", TryLater, checkTime/2)    // is being checked, which continues
		ask(soon, "bob", "x", TryLater, checkTime/2)    // waits, and leaves the queue
		ask(soon, "bob", "b", TryLater, checkTime/2)    // waits, and others share its check
		ask(t.Context(), "bob", "b", Good, 2*checkTime) // one of them
		if n := w.Stats().Waiting; n != 2 {
			t.Errorf("%d checks wait, want 2", n)
		}
		clients.Wait()
		if n := w.calls.Load(); n != 2 {
			t.Errorf("%d checks, want 2", n)
		}
		w.want(Good, 0, "ann", "a")
	})
}

func TestWaitIsBounded(t *testing.T) {
	inWorld(t, twelve(), func(t *testing.T, w *world) {
		w.maxWait = 5 * checkTime / 2
		var good, late atomic.Int32
		var clients sync.WaitGroup
		for i := range 12 {
			clients.Go(func() {
				switch r := w.ask(fmt.Sprint("user", i), fmt.Sprint("pw", i)); r.Verdict {
				case Good:
					good.Add(1)
				case TryLater:
					late.Add(1)
				}
			})
		}
		began := time.Now()
		clients.Wait()
		if good.Load() != 2 || late.Load() != 10 || time.Since(began) != w.maxWait {
			t.Errorf("%d good, %d late after %v", good.Load(), late.Load(), time.Since(began))
		}
	})
}

func TestFileChangesWhileACredentialWaits(t *testing.T) {
	ann := line("ann", "a")
	inWorld(t, []string{ann}, func(t *testing.T, w *world) {
		results := make(chan Result, 2)
		ask := func(name, password string) {
			go func() { results <- w.ask(name, password) }()
			synctest.Wait()
		}
		// The Checker reads the file in the middle of the check that starts now.
		beforeLook := func() { time.Sleep(time.Second - time.Duration(time.Now().Nanosecond()) - checkTime/2) }
		beforeLook()
		ask("ann", "new")
		ask("bob", "b")
		w.write(line("ann", "new"), line("bob", "b"))
		for range 2 {
			if r := <-results; r.Verdict != Good {
				t.Errorf("%+v", r)
			}
		}
		if n := w.calls.Load(); n != 3 {
			t.Errorf("%d checks, want 3: one of ann's old hash, one of each new line", n)
		}
		// Conversely, a credential that bcrypt has just accepted is not valid for the new line.
		w.reload(ann)
		beforeLook()
		ask("ann", "a")
		w.write(line("ann", "other"))
		if r := <-results; r.Verdict != Bad {
			t.Errorf("%+v", r)
		}
	})
}

func TestClose(t *testing.T) {
	inWorld(t, []string{line("ann", "a"), line("bob", "b")}, func(t *testing.T, w *world) {
		w.want(Good, 1, "ann", "a")
		results := make(chan Result, 2)
		for _, password := range []string{"x", "b"} {
			go func() { results <- w.ask("bob", password) }()
			synctest.Wait()
		}
		at := time.Now()
		w.Close()
		for range 2 {
			if r := <-results; r != tryLater(time.Second) {
				t.Errorf("%+v", r)
			}
		}
		w.want(TryLater, 0, "ann", "a")
		w.want(TryLater, 0, "bob", "b")
		if time.Since(at) > 0 {
			t.Errorf("Close took %v", time.Since(at))
		}
		w.Close()
	})
}

// TestConcurrency uses real bcrypt, real time and a constantly changing file, for the race detector.
func TestConcurrency(t *testing.T) {
	w := &world{t: t, path: filepath.Join(t.TempDir(), "htpasswd")}
	ann, bob := line("ann", "a"), []string{line("bob", "b0"), line("bob", "b1")}
	w.write(ann, bob[0])
	var err error
	if w.Checker, err = New(Options{Path: w.path, Poll: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var clients sync.WaitGroup
	for g := range 8 {
		clients.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if r := w.Check(context.Background(), basic("ann", "a"), here); r.Verdict != Good {
					t.Errorf("ann: %+v", r)
				}
				w.Check(ctx, basic("bob", fmt.Sprint("b", i%2)), there)
				if r := w.Check(ctx, basic(fmt.Sprint("ann", i%2), fmt.Sprint(g, i)), here); r.Verdict == Good {
					t.Errorf("guess: %+v", r)
				}
				w.Stats()
			}
		})
	}
	for i := 0; ctx.Err() == nil; i++ {
		w.write(ann, bob[i%2])
		time.Sleep(5 * time.Millisecond)
	}
	clients.Wait()
	w.write(ann, bob[1])
	for w.Check(t.Context(), basic("bob", "b1"), there).Verdict != Good {
		if t.Context().Err() != nil {
			t.Fatal("bob is not good")
		}
		time.Sleep(time.Millisecond)
	}
	w.Close()
}

func BenchmarkKnownUser(b *testing.B) {
	path := filepath.Join(b.TempDir(), "htpasswd")
	if err := os.WriteFile(path, []byte(line("ann", "a")), 0o600); err != nil {
		b.Fatal(err)
	}
	c, err := New(Options{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	header := basic("ann", strings.Repeat("x", 43))
	for name, h := range map[string]string{"good": basic("ann", "a"), "refused": header} {
		want := c.Check(b.Context(), h, here)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r := c.Check(b.Context(), h, here); r != want {
					b.Fatal(r)
				}
			}
		})
	}
}
