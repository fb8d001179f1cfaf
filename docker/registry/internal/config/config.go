// SPDX-License-Identifier: GPL-3.0-or-later

// Package config reads the program's configuration file. The file is YAML. It is parsed strictly, and checked as a whole before
// anything starts.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxFileSize is the most bytes that a configuration file may have.
const maxFileSize = 1 << 20

// Config is the whole configuration. Every key has a default unless its comment says "required".
type Config struct {
	// Listen is the address for clients. Port 0 takes any free one.
	Listen string `yaml:"listen" example:"listen: \":5000\""`
	// TLS makes the client port speak TLS; it speaks plain HTTP without.
	TLS *TLS `yaml:"tls,omitempty" example:"tls: {certificate: /etc/registry-cache/tls/tls.crt, key: /etc/registry-cache/tls/tls.key}"`
	// Metrics is where Prometheus reads; there are no metrics without.
	Metrics *Endpoint `yaml:"metrics,omitempty" example:"metrics: {listen: \":5006\"}"`
	// Pprof is where Go's profiler answers, on a loopback address only; there is no profiler without.
	Pprof *Endpoint `yaml:"pprof,omitempty" example:"pprof: {listen: \"127.0.0.1:6060\"}"`
	// Auth is who may pull; required.
	Auth Auth `yaml:"auth" example:"auth: {htpasswd: /etc/registry-cache/auth/htpasswd}"`
	// Store is where content is kept; required.
	Store Store `yaml:"store" example:"store: {path: /var/lib/registry-cache, limit: 20Gi}"`
	// Upstreams are the registries that are cached; at least one is required. The first serves requests without "ns".
	Upstreams []Upstream `yaml:"upstreams" example:"upstreams: [{host: us-central1-docker.pkg.dev}]"`
	Tags      Tags       `yaml:"tags" example:"tags: {ttl: 1s}"`
	Fill      Fill       `yaml:"fill" example:"fill: {stall_timeout: 60s}"`
	Outage    Outage     `yaml:"outage" example:"outage: {challenge_timeout: 2s}"`
	Limits    Limits     `yaml:"limits" example:"limits: {header_timeout: 10s}"`
	Log       Log        `yaml:"log" example:"log: {level: info, access: off}"`
	// Peers are the other replicas, with which this one shares what it fetches; it serves alone without.
	Peers *Peers `yaml:"peers,omitempty" example:"peers: {service: registry-cache-replicas, secret: /etc/registry-cache/peers/secret}"`
	// Drain is how long open transfers go on after the program was told to end; what is open then is cut.
	Drain time.Duration `yaml:"drain" example:"drain: 60s"`
}

// TLS names the files of a certificate (PEM, with its chain) and its key. Both are read again when they change.
type TLS struct {
	Certificate string `yaml:"certificate" example:"certificate: /etc/registry-cache/tls/tls.crt"`
	Key         string `yaml:"key" example:"key: /etc/registry-cache/tls/tls.key"`
}

// An Endpoint is a further address on which the program listens.
type Endpoint struct {
	Listen string `yaml:"listen" example:"listen: \"127.0.0.1:5006\""`
}

// Auth is either an htpasswd file or, said explicitly, none.
type Auth struct {
	Htpasswd string // path of the file
	None     bool   // "auth: none"
}

// Store is the content on disk and in memory.
type Store struct {
	// Path is the directory; required.
	Path string `yaml:"path" example:"path: /var/lib/registry-cache"`
	// Limit is the most disk space that the store uses, deleted but open files included; required.
	Limit Size `yaml:"limit" example:"limit: 20Gi"`
	// Memory is the most that manifests and small blobs take in memory while nobody asks for them. Manifests that are fetched and
	// sent take up to twice as much besides, at least 64 MiB.
	Memory Size `yaml:"memory" example:"memory: 16Mi"`
	// ScrubRate is how many bytes of stored content are hashed again per second; 0 looks for no bit rot.
	ScrubRate Size `yaml:"scrub_rate" example:"scrub_rate: 8Mi"`
}

// An Upstream is a registry that is cached.
type Upstream struct {
	// Host is its name in image references, and in the query "ns"; required.
	Host string `yaml:"host" example:"host: us-central1-docker.pkg.dev"`
	// URL is its root if that is not https://Host.
	URL string `yaml:"url,omitempty" example:"url: https://us-central1-docker.pkg.dev"`
	// Credential is how the cache logs in; it asks without one where this is missing.
	Credential *Credential `yaml:"credential,omitempty" example:"credential: {helper: docker-credential-gcr, lifetime: 9m}"`
	// ShareBlobs lets a blob that one repository brought serve the others of this upstream.
	ShareBlobs bool `yaml:"share_blobs" example:"share_blobs: true"`
}

// A Credential comes from a program that speaks docker's credential-helper protocol.
type Credential struct {
	// Helper is its name or absolute path; required.
	Helper string `yaml:"helper" example:"helper: docker-credential-gcr"`
	// Lifetime is how long an answer is used. For a projected token: at most 15 % of its life.
	Lifetime time.Duration `yaml:"lifetime" example:"lifetime: 9m"`
	// Timeout is how long the helper may take.
	Timeout time.Duration `yaml:"timeout" example:"timeout: 10s"`
}

// Tags is about what a tag means.
type Tags struct {
	// TTL is how long a tag is not asked of the upstream again.
	TTL time.Duration `yaml:"ttl" example:"ttl: 1s"`
}

// Fill limits the transfers from upstreams.
type Fill struct {
	// StallTimeout is how long an upstream may send nothing in the middle of a blob.
	StallTimeout time.Duration `yaml:"stall_timeout" example:"stall_timeout: 60s"`
	// Abandoned is how many fills go on after all their clients have left.
	Abandoned int `yaml:"abandoned" example:"abandoned: 16"`
	// MinimumRate is how many bytes per second a reader must take of a fill that is not stored for want of room.
	MinimumRate Size `yaml:"minimum_rate" example:"minimum_rate: 64Ki"`
}

// Outage limits how long clients wait for an upstream that is silent, before they get what the cache has, or an error.
type Outage struct {
	ChallengeTimeout time.Duration `yaml:"challenge_timeout" example:"challenge_timeout: 2s"`
	ManifestTimeout  time.Duration `yaml:"manifest_timeout" example:"manifest_timeout: 5s"`
	BlobTimeout      time.Duration `yaml:"blob_timeout" example:"blob_timeout: 30s"`
	// Remember is how long an upstream that was out is not asked again.
	Remember time.Duration `yaml:"remember" example:"remember: 3s"`
}

// Limits protect the client port.
type Limits struct {
	// HeaderBytes is the most that a request line and header may have. Podman sends up to 1,024 ranges in one.
	HeaderBytes Size `yaml:"header_bytes" example:"header_bytes: 32Ki"`
	// HeaderTimeout is how long a client may take to send them, or for a TLS handshake.
	HeaderTimeout time.Duration `yaml:"header_timeout" example:"header_timeout: 10s"`
	// IdleTimeout is how long a connection without a request is kept.
	IdleTimeout time.Duration `yaml:"idle_timeout" example:"idle_timeout: 5m"`
	// SendTimeout is how long a client may take for 1 MiB of an answer.
	SendTimeout time.Duration `yaml:"send_timeout" example:"send_timeout: 2m"`
	// UnauthenticatedConnections is how many connections may be open that have shown no good credential.
	UnauthenticatedConnections int `yaml:"unauthenticated_connections" example:"unauthenticated_connections: 512"`
}

// Log is about the two logs, which go to standard error.
type Log struct {
	// Level is debug, info, warn or error.
	Level string `yaml:"level" example:"level: info"`
	// Access is which requests are logged: off, all or one of n.
	Access Access `yaml:"access" example:"access: 1/100"`
}

// defaultConfig returns a configuration in which the required keys are missing.
func defaultConfig() *Config {
	return &Config{
		Listen: ":5000",
		Store:  Store{Memory: 16 * Mi, ScrubRate: 8 * Mi},
		Tags:   Tags{TTL: time.Second},
		Fill:   Fill{StallTimeout: time.Minute, Abandoned: 16, MinimumRate: 64 * Ki},
		Outage: Outage{
			ChallengeTimeout: 2 * time.Second, ManifestTimeout: 5 * time.Second, BlobTimeout: 30 * time.Second,
			Remember: 3 * time.Second,
		},
		Limits: Limits{
			HeaderBytes: 32 * Ki, HeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute, SendTimeout: 2 * time.Minute,
			UnauthenticatedConnections: 512,
		},
		Log:   Log{Level: "info"},
		Drain: time.Minute,
	}
}

func (u *Upstream) setDefaults() { u.ShareBlobs = true }

func (c *Credential) setDefaults() { c.Lifetime, c.Timeout = 9*time.Minute, 10*time.Second }

// authFix is what to write for a missing or wrong auth.
const authFix = "write \"auth: {htpasswd: /etc/registry-cache/auth/htpasswd}\", or \"auth: none\" to let everybody pull"

func (a *Auth) decode(d *decoder, key string, node *yaml.Node) {
	switch {
	case node.Kind == yaml.ScalarNode && node.Value == "none":
		a.None = true
	case node.Kind != yaml.MappingNode:
		d.add(node, key, "must be none or a mapping", describe(node), authFix)
	case len(node.Content) > 0 && node.Content[0].Value == "none":
		d.add(node, key, "must be the word none, not a mapping with that key", "", authFix)
	default:
		var fields struct {
			Htpasswd string `yaml:"htpasswd" example:"htpasswd: /etc/registry-cache/auth/htpasswd"`
		}
		d.value(key, "", node, reflect.ValueOf(&fields).Elem())
		a.Htpasswd = fields.Htpasswd
	}
}

// MarshalYAML returns the form that decode takes.
func (a Auth) MarshalYAML() (any, error) {
	if a.None {
		return "none", nil
	}
	return map[string]string{"htpasswd": a.Htpasswd}, nil
}

// Load returns the configuration in a file, with the files that it names checked. The error is of type Errors.
func Load(path string) (*Config, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, Errors{{
			What: "cannot be read: " + err.Error(), Got: path,
			Fix: "name a readable file of at most 1 MiB, for example /etc/registry-cache/config.yaml",
		}}
	}
	c, err := Parse(content)
	if err != nil {
		return nil, err
	}
	if err := c.CheckFiles(); err != nil {
		return nil, err
	}
	return c, nil
}

// readFile returns the content of a file of at most maxFileSize bytes.
func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err == nil && len(content) > maxFileSize {
		err = errors.New("it has more than 1 MiB")
	}
	return content, err
}

// Parse returns the configuration that content holds, with defaults for what it leaves out. The error is of type Errors
// and holds every problem that was found. No file that it names is opened.
func Parse(content []byte) (*Config, error) {
	c := defaultConfig()
	d := &decoder{seen: map[string]int{}}
	node, problem := parseDocument(content)
	if problem != nil {
		return nil, Errors{*problem}
	}
	if node != nil {
		d.value("", "listen: \":5000\"", node, reflect.ValueOf(c).Elem())
	}
	for _, p := range c.validate(d.seen) {
		if !d.errs.covers(p.Key) {
			d.errs = append(d.errs, p)
		}
	}
	if err := d.errs.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// parseDocument returns the root of the one YAML document, or nil if there are only comments.
func parseDocument(content []byte) (*yaml.Node, *Error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var first, second yaml.Node
	switch err := decoder.Decode(&first); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, syntaxError(err)
	}
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, syntaxError(err)
	default:
		return nil, &Error{What: "has more than one YAML document", Line: second.Line, Fix: "remove the line \"---\" and what follows"}
	}
	return first.Content[0], nil
}

// syntaxError returns the error for a file that is not valid YAML.
func syntaxError(err error) *Error {
	message := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " ")
	return &Error{What: "is not valid YAML: " + message, Fix: "correct the syntax, for example to \"listen: \\\":5000\\\"\""}
}

// Marshal returns the configuration as YAML that Parse takes, defaults included.
func (c *Config) Marshal() ([]byte, error) {
	content, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	return content, nil
}
