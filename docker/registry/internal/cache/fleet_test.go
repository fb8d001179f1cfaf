// SPDX-License-Identifier: GPL-3.0-or-later

package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pullthrough.registry_cache/docker/registry/internal/peer"
	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// programEnv is the environment variable with the configuration for a test process that runs the program.
const programEnv = "CACHE_TEST_CONFIG"

// A fleet is a set of replicas on loopback, each a process, with the same upstream.
type fleet struct {
	t        testing.TB
	dir      string
	secret   string
	url      func(i int) string // URL of the upstream of replica i
	hopOf    func(i, j int) int // port at which replica i expects replica j; 0 if it does not know it
	replicas []*replica
	more     string // further configuration
	files    int    // limit of open files of a replica; 0: that of this process
}

// A replica is one process.
type replica struct {
	fleet                 *fleet
	name                  string
	client, hop, metrics  int // ports
	root, config, logFile string
	secret                string // file of this replica
	cmd                   *exec.Cmd
	ended                 chan error
}

// lasts skips a test that takes some seconds in short mode.
func lasts(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes some seconds")
	}
}

// freePorts returns free loopback ports. They are below the ephemeral ports, so that a replica can use its port again
// after a restart.
func freePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	for tries := 0; len(ports) < n; tries++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(20000)))
		if err == nil {
			defer l.Close()
			ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		} else if tries > 1000 {
			t.Fatal(err)
		}
	}
	return ports
}

// newFleet returns replicas that have not been started.
func newFleet(t testing.TB, n int, u *registry, more string) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: t.TempDir(), secret: strings.Repeat("s", 32), more: more, url: func(int) string { return u.URL }}
	ports := freePorts(t, 3*n)
	for i := range n {
		r := &replica{
			fleet: f, name: fmt.Sprintf("registry-cache-%d", i), client: ports[3*i], hop: ports[3*i+1], metrics: ports[3*i+2],
			root: filepath.Join(f.dir, fmt.Sprint("store-", i)), config: filepath.Join(f.dir, fmt.Sprint("config-", i)),
			logFile: filepath.Join(f.dir, fmt.Sprint("log-", i)), secret: filepath.Join(f.dir, fmt.Sprint("secret-", i)),
		}
		r.writeSecret(f.secret)
		f.replicas = append(f.replicas, r)
	}
	f.hopOf = func(_, j int) int { return f.replicas[j].hop }
	return f
}

// startFleet starts replicas and waits until they are ready.
func startFleet(t testing.TB, n int, u *registry, more string) *fleet {
	t.Helper()
	f := newFleet(t, n, u, more)
	for _, r := range f.replicas {
		r.start()
	}
	return f
}

func (r *replica) writeSecret(lines ...string) {
	if err := os.WriteFile(r.secret, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		r.fleet.t.Fatal(err)
	}
}

// start starts the replica, and waits until it is ready.
func (r *replica) start() {
	t, f := r.fleet.t, r.fleet
	t.Helper()
	index := slices.Index(f.replicas, r)
	var members []string
	for i, other := range f.replicas {
		if port := f.hopOf(index, i); port != 0 {
			members = append(members, fmt.Sprintf("{name: %s, address: \"127.0.0.1:%d\"}", other.name, port))
		}
	}
	text := fmt.Sprintf("listen: \"127.0.0.1:%d\"\nmetrics: {listen: \"127.0.0.1:%d\"}\nauth: none\nstore: {path: %s, limit: 128Mi}\n"+
		"upstreams: [{host: up.example, url: %q}]\npeers: {name: %s, listen: \"127.0.0.1:%d\", secret: %s, members: [%s]}\n%s\n",
		r.client, r.metrics, r.root, f.url(index), r.name, r.hop, r.secret, strings.Join(members, ", "), f.more)
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(r.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r.cmd = exec.Command(os.Args[0])
	if f.files > 0 {
		r.cmd = exec.Command("sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0"`, f.files), os.Args[0])
	}
	r.cmd.Env = append(os.Environ(), programEnv+"="+r.config)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	r.ended = ended
	cmd := r.cmd
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if t.Failed() {
			content, _ := os.ReadFile(r.logFile)
			t.Logf("%s:\n%s", r.name, content)
		}
	})
	ready := func() bool { return r.get("/ready").status == 200 }
	for end := time.Now().Add(2 * patience); !ready() && time.Now().Before(end); { // takes long on a busy machine
		time.Sleep(20 * time.Millisecond)
	}
	testutil.Eventually(t, r.name+" is ready", ready)
}

func (r *replica) signal(s syscall.Signal) {
	if err := r.cmd.Process.Signal(s); err != nil {
		r.fleet.t.Fatal(err)
	}
}

// kill kills the replica.
func (r *replica) kill() {
	r.signal(syscall.SIGKILL)
	<-r.ended
}

// stop stops the replica with SIGSTOP, and waits until it has stopped.
func (r *replica) stop() {
	r.signal(syscall.SIGSTOP)
	testutil.Eventually(r.fleet.t, "it is stopped", func() bool {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
		_, rest, _ := strings.Cut(string(content), ") ")
		return err == nil && strings.HasPrefix(rest, "T")
	})
}

// end terminates the replica and waits for its exit.
func (r *replica) end() {
	r.signal(syscall.SIGTERM)
	select {
	case err := <-r.ended:
		if err != nil {
			r.fleet.t.Errorf("%s: %v", r.name, err)
		}
	case <-time.After(patience):
		r.fleet.t.Errorf("%s does not end", r.name)
	}
}

func (r *replica) empty() {
	if err := os.RemoveAll(r.root); err != nil {
		r.fleet.t.Fatal(err)
	}
}

func (r *replica) address() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: r.client} }

func (r *replica) get(path string, head ...string) answer { return fetch(r.address(), path, head...) }

// metric returns the sum of a metric's samples.
func (r *replica) metric(name string) (sum float64) {
	a := fetch(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: r.metrics}, "/metrics")
	for line := range strings.Lines(string(a.body)) {
		if strings.HasPrefix(line, name+" ") || strings.HasPrefix(line, name+"{") {
			var value float64
			_, _ = fmt.Sscan(line[strings.LastIndexByte(strings.TrimSpace(line), ' ')+1:], &value)
			sum += value
		}
	}
	return sum
}

// ranked returns the replicas in the order in which they own a key.
func (f *fleet) ranked(key string) []*replica {
	f.t.Helper()
	var members []peer.Member
	for _, r := range f.replicas {
		members = append(members, peer.Member{Name: r.name, Address: "127.0.0.1:1"})
	}
	p, err := peer.New(peer.Options{Self: "nobody", Members: members, Secret: f.replicas[0].secret, Log: quietLog})
	if err != nil {
		f.t.Fatal(err)
	}
	defer p.Close()
	var ranked []*replica
	for _, rank := range p.Rank(key) {
		for _, r := range f.replicas {
			if r.name == rank.Name {
				ranked = append(ranked, r)
			}
		}
	}
	return ranked
}

func blobKey(d digest.Digest) string { return "up.example/blobs/" + d.String() }

func blobPath(d digest.Digest) string { return "/v2/a/b/blobs/" + d.String() }

// A pull is the result of a client that resumes with Range requests, like containerd.
type pull struct {
	hash  string
	bytes int64
	tries int
	first time.Duration
	took  time.Duration
}

// pull pulls a blob with at most tries requests.
func (r *replica) pull(path string, tries int) (p pull, err error) {
	begun := time.Now()
	sum := sha256.New()
	for p.tries < tries {
		p.tries++
		var done bool
		if done, err = r.part(path, sum, &p, begun); done {
			p.hash, p.took = "sha256:"+hex.EncodeToString(sum.Sum(nil)), time.Since(begun)
			return p, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return p, fmt.Errorf("after %d tries and %d bytes: %w", p.tries, p.bytes, err)
}

func (r *replica) part(path string, to io.Writer, p *pull, begun time.Time) (bool, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+r.address().String()+path, nil)
	if err != nil {
		return false, err
	}
	req.Close = true
	if p.bytes > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", p.bytes))
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if p.bytes > 0 && resp.StatusCode != http.StatusPartialContent || p.bytes == 0 && resp.StatusCode != http.StatusOK {
		content, _ := io.ReadAll(resp.Body)
		return false, fmt.Errorf("status %d: %s", resp.StatusCode, content)
	}
	if p.first == 0 {
		p.first = time.Since(begun)
	}
	n, err := io.Copy(to, resp.Body)
	p.bytes += n
	return err == nil, err
}

// pullAll pulls a blob with several clients, through the replicas in turn, and checks each digest.
func pullAll(t testing.TB, replicas []*replica, d digest.Digest, clients, tries int) (pulls []pull) {
	t.Helper()
	var all sync.WaitGroup
	pulls = make([]pull, clients)
	for i := range clients {
		all.Go(func() {
			r := replicas[i%len(replicas)]
			p, err := r.pull(blobPath(d), tries)
			if err != nil || p.hash != string(d) {
				t.Errorf("client %d at %s: %d bytes of digest %s, %v", i, r.name, p.bytes, p.hash, err)
			}
			pulls[i] = p
		})
	}
	all.Wait()
	return pulls
}
