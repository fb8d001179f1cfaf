// SPDX-License-Identifier: GPL-3.0-or-later

// Package config reads the program's configuration file. The file is YAML. It is parsed strictly and validated as a
// whole before the program starts anything.
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

// maxFileSize is the maximum size of a configuration file, in bytes.
const maxFileSize = 1 << 20

// Config is the whole configuration. Every key has a default unless its comment says "required".
type Config struct {
	// Listen is the address for clients. With port 0, the system chooses a free port.
	Listen string `yaml:"listen" example:"listen: \":5000\""`
	// TLS enables TLS on the client port. Without it, the port speaks plain HTTP.
	TLS *TLS `yaml:"tls,omitempty" example:"tls: {certificate: /etc/registry-cache/tls/tls.crt, key: /etc/registry-cache/tls/tls.key}"`
	// Metrics is the address for Prometheus. Without it, there are no metrics.
	Metrics *Endpoint `yaml:"metrics,omitempty" example:"metrics: {listen: \":5006\"}"`
	// Pprof is the address for Go's profiler, which must be a loopback address. Without it, there is no profiler.
	Pprof *Endpoint `yaml:"pprof,omitempty" example:"pprof: {listen: \"127.0.0.1:6060\"}"`
	// Auth says who may pull; required.
	Auth Auth `yaml:"auth" example:"auth: {htpasswd: /etc/registry-cache/auth/htpasswd}"`
	// Store configures where content is stored; required.
	Store Store `yaml:"store" example:"store: {path: /var/lib/registry-cache, limit: 20Gi}"`
	// Upstreams are the registries to cache; at least one is required. Requests without "ns" go to the first.
	Upstreams []Upstream `yaml:"upstreams" example:"upstreams: [{host: us-central1-docker.pkg.dev}]"`
	Tags      Tags       `yaml:"tags" example:"tags: {ttl: 1s}"`
	Fill      Fill       `yaml:"fill" example:"fill: {stall_timeout: 60s}"`
	Outage    Outage     `yaml:"outage" example:"outage: {challenge_timeout: 2s}"`
	Limits    Limits     `yaml:"limits" example:"limits: {header_timeout: 10s}"`
	Log       Log        `yaml:"log" example:"log: {level: info, access: off}"`
	// Peers are the other replicas, with which this one shares content. Without it, this is the only replica.
	Peers *Peers `yaml:"peers,omitempty" example:"peers: {service: registry-cache-replicas, secret: /etc/registry-cache/peers/secret}"`
	// Drain is how long open transfers may continue after the program receives SIGTERM. Then they are cut.
	Drain time.Duration `yaml:"drain" example:"drain: 60s"`
}

// TLS names the files of a certificate (PEM, with its chain) and its key. Both are reloaded when they change.
type TLS struct {
	Certificate string `yaml:"certificate" example:"certificate: /etc/registry-cache/tls/tls.crt"`
	Key         string `yaml:"key" example:"key: /etc/registry-cache/tls/tls.key"`
}

// An Endpoint is an additional address on which the program listens.
type Endpoint struct {
	Listen string `yaml:"listen" example:"listen: \"127.0.0.1:5006\""`
}

// Auth is either an htpasswd file or an explicit "none".
type Auth struct {
	Htpasswd string // path of the htpasswd file
	None     bool   // "auth: none"
}

// Store configures the content on disk and in memory.
type Store struct {
	// Path is the directory; required.
	Path string `yaml:"path" example:"path: /var/lib/registry-cache"`
	// Limit is the maximum disk space for the store, including deleted files that are still open; required.
	Limit Size `yaml:"limit" example:"limit: 20Gi"`
	// Memory is the maximum memory for cached manifests and small blobs. Manifests that are being fetched or sent may
	// take up to twice as much in addition, and at least 64 MiB.
	Memory Size `yaml:"memory" example:"memory: 16Mi"`
	// ScrubRate is how many bytes of stored content per second are verified against bit rot; 0 disables this.
	ScrubRate Size `yaml:"scrub_rate" example:"scrub_rate: 8Mi"`
}

// An Upstream is a registry to cache.
type Upstream struct {
	// Host is its name in image references and in the query parameter "ns"; required.
	Host string `yaml:"host" example:"host: us-central1-docker.pkg.dev"`
	// URL is its root URL (default https://Host).
	URL string `yaml:"url,omitempty" example:"url: https://us-central1-docker.pkg.dev"`
	// Credential is how the cache logs in. Without it, the cache pulls anonymously.
	Credential *Credential `yaml:"credential,omitempty" example:"credential: {helper: docker-credential-gcr, lifetime: 9m}"`
	// ShareBlobs serves a blob that was fetched from one repository to requests for the other repositories of this
	// upstream.
	ShareBlobs bool `yaml:"share_blobs" example:"share_blobs: true"`
}

// A Credential is provided by a program that implements Docker's credential helper protocol.
type Credential struct {
	// Helper is the name or absolute path of the program; required.
	Helper string `yaml:"helper" example:"helper: docker-credential-gcr"`
	// Lifetime is how long a credential is used. For a projected token, use at most 15 % of its lifetime.
	Lifetime time.Duration `yaml:"lifetime" example:"lifetime: 9m"`
	// Timeout is the maximum run time of the helper.
	Timeout time.Duration `yaml:"timeout" example:"timeout: 10s"`
}

// Tags configures how tags are resolved.
type Tags struct {
	// TTL is how long the digest of a tag is used before the upstream is asked again.
	TTL time.Duration `yaml:"ttl" example:"ttl: 1s"`
}

// Fill limits the transfers from upstreams.
type Fill struct {
	// StallTimeout is how long an upstream may send nothing before or in the middle of a blob.
	StallTimeout time.Duration `yaml:"stall_timeout" example:"stall_timeout: 60s"`
	// Abandoned is how many fills may continue after all their clients have left.
	Abandoned int `yaml:"abandoned" example:"abandoned: 16"`
	// MinimumRate is how many bytes per second a client must read of a blob for which the store has no room.
	MinimumRate Size `yaml:"minimum_rate" example:"minimum_rate: 64Ki"`
}

// Outage limits how long clients wait for a silent upstream before they get cached content or an error.
type Outage struct {
	ChallengeTimeout time.Duration `yaml:"challenge_timeout" example:"challenge_timeout: 2s"`
	ManifestTimeout  time.Duration `yaml:"manifest_timeout" example:"manifest_timeout: 5s"`
	BlobTimeout      time.Duration `yaml:"blob_timeout" example:"blob_timeout: 30s"`
	// Remember is how long an upstream that is down is not asked again.
	Remember time.Duration `yaml:"remember" example:"remember: 3s"`
}

// Limits protect the client port.
type Limits struct {
	// HeaderBytes is the maximum size of request line and header. Podman sends up to 1,024 ranges in a header.
	HeaderBytes Size `yaml:"header_bytes" example:"header_bytes: 32Ki"`
	// HeaderTimeout is how long a client may take to send a request header, or for a TLS handshake.
	HeaderTimeout time.Duration `yaml:"header_timeout" example:"header_timeout: 10s"`
	// IdleTimeout is how long a connection without a request is kept.
	IdleTimeout time.Duration `yaml:"idle_timeout" example:"idle_timeout: 5m"`
	// SendTimeout is how long a client may take for 1 MiB of an answer.
	SendTimeout time.Duration `yaml:"send_timeout" example:"send_timeout: 2m"`
	// UnauthenticatedConnections is how many connections without a valid credential may be open.
	UnauthenticatedConnections int `yaml:"unauthenticated_connections" example:"unauthenticated_connections: 512"`
}

// Log configures the two logs, which are written to standard error.
type Log struct {
	// Level is debug, info, warn or error.
	Level string `yaml:"level" example:"level: info"`
	// Access selects the requests in the access log: off, all or 1/n.
	Access Access `yaml:"access" example:"access: 1/100"`
}

// defaultConfig returns a configuration with all defaults, and without the required keys.
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

// authFix is the fix for a missing or wrong auth.
const authFix = "write \"auth: {htpasswd: /etc/registry-cache/auth/htpasswd}\", or \"auth: none\" to allow anonymous pulls"

func (a *Auth) decode(d *decoder, key string, node *yaml.Node) {
	switch {
	case node.Kind == yaml.ScalarNode && node.Value == "none":
		a.None = true
	case node.Kind != yaml.MappingNode:
		d.add(node, key, "must be none or a mapping", describe(node), authFix)
	case len(node.Content) > 0 && node.Content[0].Value == "none":
		d.add(node, key, "must be the word none, not a mapping with the key none", "", authFix)
	default:
		var fields struct {
			Htpasswd string `yaml:"htpasswd" example:"htpasswd: /etc/registry-cache/auth/htpasswd"`
		}
		d.value(key, "", node, reflect.ValueOf(&fields).Elem())
		a.Htpasswd = fields.Htpasswd
	}
}

// MarshalYAML returns the form that decode accepts.
func (a Auth) MarshalYAML() (any, error) {
	if a.None {
		return "none", nil
	}
	return map[string]string{"htpasswd": a.Htpasswd}, nil
}

// Load returns the configuration in a file. It also checks the files named in it. The error is of type Errors.
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
		err = errors.New("it is larger than 1 MiB")
	}
	return content, err
}

// Parse returns the configuration in content, with defaults for missing keys. The error is of type Errors and lists
// every problem. Parse does not open the files named in the configuration.
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

// parseDocument returns the root of the only YAML document, or nil if there are only comments.
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
		return nil, &Error{What: "has more than one YAML document", Line: second.Line, Fix: "remove the line \"---\" and everything after it"}
	}
	return first.Content[0], nil
}

// syntaxError returns the error for a file that is not valid YAML.
func syntaxError(err error) *Error {
	message := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " ")
	return &Error{What: "is not valid YAML: " + message, Fix: "correct the syntax, for example to \"listen: \\\":5000\\\"\""}
}

// Marshal returns the configuration, including defaults, as YAML that Parse accepts.
func (c *Config) Marshal() ([]byte, error) {
	content, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("marshal the configuration: %w", err)
	}
	return content, nil
}
