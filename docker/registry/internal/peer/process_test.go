// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// busyProcess is the name of a process that only consumes CPU time.
const busyProcess = "busy"

// serveProcess runs a replica in a separate process until its standard input ends.
func serveProcess() {
	name := os.Getenv("PEER_TEST_NAME")
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for name == busyProcess {
		_ = computeMAC(testSecret, name)
	}
	o := Options{Self: name, Members: []Member{}, Secret: os.Getenv("PEER_TEST_SECRET"), Log: quiet}
	if dns := os.Getenv("PEER_TEST_DNS"); dns != "" {
		o.Members, o.Service, o.DNS = nil, testService, resolver(dns)
	}
	p, err := New(o)
	if err != nil {
		panic(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	panic(http.Serve(l, p.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wait, err := time.ParseDuration(r.URL.Query().Get("wait")); err == nil {
			time.Sleep(wait)
		}
		small(w, r)
	}))))
}

// A process is a replica that a test may kill.
type process struct {
	*exec.Cmd
	Member
}

func startProcess(t *testing.T, name string, env ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0])}
	p.Env = append(append(os.Environ(), "PEER_TEST_NAME="+name, "PEER_TEST_SECRET="+secretFile(t, testSecret)), env...)
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Process.Kill() // also works for a stopped process
		_ = in.Close()
		_ = p.Wait()
	})
	if name != busyProcess {
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		p.Member = Member{name, strings.TrimSpace(line)}
	}
	return p
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// stop stops the process, and waits until all of its threads have stopped.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	testutil.Eventually(t, "it is stopped", func() bool {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
		_, rest, _ := strings.Cut(string(content), ") ")
		return err == nil && strings.HasPrefix(rest, "T")
	})
}

// ask asks the members for a key like a caller does: in the order of Rank, and the next one as soon as one is silent.
// It returns the name of the member that answered.
func ask(t *testing.T, p *Peers, key string) string {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answered := make(chan string, 1)
	ranks := p.Rank(key)
	if ranks[0].Self {
		return p.self.name
	}
	for _, r := range ranks {
		next := make(chan struct{}, 3)
		if r.Self {
			answered <- r.Name
			return <-answered
		}
		go func() {
			resp, err := p.Do(ctx, r.Name, http.MethodGet, smallURI, nil, CallOptions{Silent: func() { next <- struct{}{} }})
			if err != nil {
				next <- struct{}{}
				return
			}
			_ = resp.Body.Close()
			select {
			case answered <- r.Name:
			default:
			}
		}()
		if p.State(r.Name) == Suspect {
			next <- struct{}{} // wakes the other waiting callers
		}
		select {
		case name := <-answered:
			return name
		case <-next:
		}
	}
	return <-answered
}

// keyOf returns a key that a member owns.
func keyOf(t *testing.T, p *Peers, name string) string {
	t.Helper()
	for _, key := range keys(2000) {
		if p.Rank(key)[0].Name == name {
			return key
		}
	}
	t.Fatalf("%s owns no key", name)
	return ""
}

// startOwner returns the Peers of member "a", the processes of "b" and "c", and a key that "b" owns and answers.
func startOwner(t *testing.T) (p *Peers, b, c *process, key string) {
	t.Helper()
	b, c = startProcess(t, "b"), startProcess(t, "c")
	p = newPeers(t, "a", b.Member, c.Member)
	key = keyOf(t, p, "b")
	if got := ask(t, p, key); got != "b" {
		t.Fatal(got)
	}
	return p, b, c, key
}

func TestKilledProcess(t *testing.T) {
	p, b, c, key := startOwner(t)
	b.signal(t, syscall.SIGKILL)
	begun := time.Now()
	if got := ask(t, p, key); got == "b" {
		t.Error("a killed process answers")
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("another one answers after %v", took)
	}
	testutil.Eventually(t, "its keys are of another", func() bool { return p.Rank(key)[0].Name != "b" })
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it is out after %v", took)
	}
	again := startProcess(t, "b")
	p.updateMembers([]Member{again.Member, c.Member}, nil)
	begun = time.Now()
	testutil.Eventually(t, "the member is in again", func() bool { return p.Stats().Out == 0 })
	t.Logf("in again after %v", time.Since(begun))
	if got := ask(t, p, key); got != "b" {
		t.Error(got)
	}
}

func TestStoppedProcess(t *testing.T) {
	p, b, _, key := startOwner(t)
	b.stop(t)
	begun := time.Now()
	if got, took := ask(t, p, key), time.Since(begun); got == "b" || took > 2*time.Second {
		t.Errorf("%s answers after %v", got, took)
	}
	testutil.Eventually(t, "its keys are of another", func() bool { return p.Rank(key)[0].Name != "b" })
	took := time.Since(begun)
	if t.Logf("out after %v", took); took < outAfter || took > outAfter+time.Second {
		t.Errorf("out after %v", took)
	}
	b.signal(t, syscall.SIGCONT)
	begun = time.Now()
	testutil.Eventually(t, "the member is in again", func() bool { return p.Stats().Out == 0 })
	t.Logf("in again after %v", time.Since(begun))
}

// beside runs processes, and goroutines in this process, that keep all CPUs busy. It returns a function that stops
// them.
func beside(t *testing.T, processes, goroutines int) func() {
	var busy []*process
	for range processes {
		busy = append(busy, startProcess(t, busyProcess))
	}
	done := make(chan struct{})
	var running sync.WaitGroup
	for range goroutines {
		running.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_ = computeMAC(testSecret, "busy")
				}
			}
		})
	}
	return func() {
		close(done)
		running.Wait()
		for _, b := range busy {
			b.signal(t, syscall.SIGKILL)
		}
	}
}

// use sends requests to every member for d, and reports the maximum response time. It fails the test if a member is
// marked as out.
func use(t *testing.T, p *Peers, members []*process, d time.Duration) {
	t.Helper()
	var slowest time.Duration
	rounds := 0
	for end := time.Now().Add(d); time.Now().Before(end); rounds++ {
		for _, m := range members {
			begun := time.Now()
			if _, _, err := get(t, p, m.Name, smallURI); err != nil {
				t.Fatalf("%s lives, but: %v", m.Name, err)
			}
			slowest = max(slowest, time.Since(begun))
		}
	}
	s := p.Stats()
	t.Logf("%d rounds of %d members, slowest answer %v, %d probes", rounds, len(members), slowest, s.Probes)
	if s.Out > 0 {
		t.Errorf("%d running members are out", s.Out)
	}
}

func TestBusyMachine(t *testing.T) {
	if testing.Short() {
		t.Skip("5 s of all processors")
	}
	b, c := startProcess(t, "b"), startProcess(t, "c")
	p := newPeers(t, "a", b.Member, c.Member)
	defer beside(t, 4, 2)()
	use(t, p, []*process{b, c}, 5*time.Second)
}

// TestStoppedObserver stops this process while an answer is due, and checks that the member is not considered silent.
func TestStoppedObserver(t *testing.T) {
	if testing.Short() {
		t.Skip("this process is stopped for 3 s")
	}
	b := startProcess(t, "b")
	p := newPeers(t, "a", b.Member)
	sh := exec.Command("sh", "-c", "sleep 0.2; kill -STOP $PPID; sleep 3; kill -CONT $PPID")
	if err := sh.Start(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := p.Do(ctx, "b", http.MethodGet, "/v2/a/manifests/1?wait=600ms", nil, CallOptions{Silent: func() { t.Error("it is called silent") }})
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if took := time.Since(begun); took < 3*time.Second || p.Stats().Probes > 0 {
		t.Errorf("after %v: %+v", took, p.Stats())
	}
	if err := sh.Wait(); err != nil {
		t.Error(err)
	}
}

// cpu returns the CPU time of a process.
func (p *process) cpu(t *testing.T) time.Duration {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.Process.Pid))
	if err != nil || len(threads) == 0 {
		t.Fatal(threads, err)
	}
	sum := time.Duration(0)
	for _, thread := range threads {
		content, err := os.ReadFile(thread)
		if err != nil {
			t.Fatal(err)
		}
		field, _, _ := strings.Cut(string(content), " ")
		nanoseconds, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(nanoseconds)
	}
	return sum
}

// TestFiftyProcesses runs a cluster of 50 processes: idle, then busy, then with a tenth of them killed and another
// tenth stopped.
func TestFiftyProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("50 processes for 20 s")
	}
	const count = 50
	dns := newDNS(t)
	records := map[string]string{}
	var all []*process
	for i := range count {
		name := fmt.Sprintf("registry-cache-%d", i+1)
		m := startProcess(t, name, "PEER_TEST_DNS="+dns.address)
		_, port, _ := net.SplitHostPort(m.Address)
		records[name+"."+testService] = "127.0.0.1"
		records[testSRV] += port + " " + name + "." + testService + "\n"
		all = append(all, m)
	}
	dns.records.Store(&records)
	p, err := New(Options{Self: "registry-cache-0", Service: testService, Secret: secretFile(t, testSecret), Log: quiet, DNS: dns.resolver(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	<-p.LookedUp()
	if s := p.Stats(); s.Members != count+1 {
		t.Fatalf("%+v", s)
	}

	time.Sleep(refreshEvery * 6 / 5) // all have looked up the members
	idle := func() (sum time.Duration) {
		for _, m := range all {
			sum += m.cpu(t)
		}
		return sum
	}
	before, begun, asked := idle(), time.Now(), dns.queries.Load()
	time.Sleep(refreshEvery)
	share := float64(idle()-before) / float64(time.Since(begun)) / count
	t.Logf("an idle peer uses %.3f %% of a CPU; %d queries in %v", 100*share, dns.queries.Load()-asked, refreshEvery)
	if share > 0.01 {
		t.Error("more than 1 %")
	}

	rest := beside(t, 4, 1)
	use(t, p, all, 4*time.Second)
	rest()

	gone := map[string]string{}
	for i, m := range all {
		switch i % 10 {
		case 0:
			gone[m.Name] = keyOf(t, p, m.Name)
			m.signal(t, syscall.SIGKILL)
		case 1:
			gone[m.Name] = keyOf(t, p, m.Name)
			m.stop(t)
		}
	}
	begun = time.Now()
	var asking sync.WaitGroup
	for name, key := range gone {
		asking.Go(func() {
			by, took := ask(t, p, key), time.Since(begun)
			if gone[by] != "" || took > 3*time.Second { // the next member may be gone, too
				t.Errorf("%s answers for %s after %v", by, name, took)
			}
			t.Logf("%s answers for %s after %v", by, name, took)
		})
	}
	asking.Wait()
	testutil.Eventually(t, "all terminated members are out", func() bool { return p.Stats().Out >= len(gone) })
	t.Logf("%d are out after %v", p.Stats().Out, time.Since(begun))
	time.Sleep(time.Second)
	if s := p.Stats(); s.Out != len(gone) {
		t.Errorf("%d members are out, want %d", s.Out, len(gone))
	}
}
