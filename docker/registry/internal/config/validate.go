// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Values outside of these bounds are treated as mistakes.
const (
	minStoreLimit  = 64 * Mi
	minHeaderBytes = 4 * Ki
	maxHeaderBytes = 1 * Mi
	maxDuration    = 24 * time.Hour
)

// hostnamePattern matches the registry in an image reference, before the first slash: lower case, with a dot, a port or
// "localhost".
var hostnamePattern = regexp.MustCompile(
	`^(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:]+\])(?::[0-9]{1,5})?$`)

// validator collects the problems with the values of keys.
type validator struct {
	errs Errors
	seen map[string]int
}

func (v *validator) add(key, what, got, fix string) {
	v.errs = append(v.errs, Error{Key: key, What: what, Got: got, Fix: fix, Line: v.seen[key]})
}

// validate returns the problems with single values and with combinations of values. seen maps keys to their lines.
func (c *Config) validate(seen map[string]int) Errors {
	v := &validator{seen: seen}
	v.addresses(c)
	v.tls(c.TLS)
	v.auth(c.Auth)
	v.store(c.Store)
	v.upstreams(c.Upstreams)
	v.numbers(c)
	v.peers(c.Peers)
	return v.errs
}

// addresses checks the addresses on which the program listens, and that they do not conflict.
func (v *validator) addresses(c *Config) {
	var taken []listener
	for _, l := range []struct {
		key, example string
		address      *Endpoint
		loopback     bool
	}{
		{"listen", "listen: \":5000\"", &Endpoint{c.Listen}, false},
		{"metrics.listen", "listen: \":5006\"", c.Metrics, false},
		{"pprof.listen", "listen: \"127.0.0.1:6060\"", c.Pprof, true},
		{"peers.listen", "listen: \":5005\"", c.Peers.endpoint(), false},
	} {
		if l.address == nil {
			continue
		}
		address, what := parseListener(l.address.Listen)
		if what == "" && l.loopback && !address.ip.IsLoopback() {
			what = "must be a loopback address, since the profiler does not require a credential"
		}
		if what != "" {
			v.add(l.key, what, l.address.Listen, "write, for example, "+l.example)
			continue
		}
		address.key = l.key
		for _, other := range taken {
			if address.clashes(other) {
				v.add(l.key, "uses the same port as "+other.key, l.address.Listen, "choose another port, for example "+l.example)
			}
		}
		taken = append(taken, address)
	}
}

// A listener is an address on which the program listens. The zero ip means all addresses.
type listener struct {
	key  string
	ip   netip.Addr
	port int
}

// clashes reports whether two listeners use the same port of the same address.
func (l listener) clashes(other listener) bool {
	everywhere := func(ip netip.Addr) bool { return !ip.IsValid() || ip.IsUnspecified() }
	return l.port != 0 && l.port == other.port && (l.ip == other.ip || everywhere(l.ip) || everywhere(other.ip))
}

// parseListener returns the listener for an address, or a description of the problem with it.
func parseListener(address string) (l listener, what string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return l, "must be an IP address with a port, or a colon and a port"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return l, "must have a port from 0 to 65535"
	}
	l.port = int(n)
	if host == "" {
		return l, ""
	}
	// Host names are refused, since they may resolve to another address later.
	if l.ip, err = netip.ParseAddr(host); err != nil {
		return l, "must have an IP address or nothing before the port"
	}
	return l, ""
}

func (v *validator) tls(t *TLS) {
	if t == nil {
		return
	}
	v.path("tls.certificate", t.Certificate, "certificate: /etc/registry-cache/tls/tls.crt")
	v.path("tls.key", t.Key, "key: /etc/registry-cache/tls/tls.key")
}

func (v *validator) auth(a Auth) {
	switch {
	case a.None:
	case a.Htpasswd == "":
		v.add("auth", "is required", "", authFix)
	default:
		v.path("auth.htpasswd", a.Htpasswd, "htpasswd: /etc/registry-cache/auth/htpasswd")
	}
}

func (v *validator) store(s Store) {
	v.path("store.path", s.Path, "path: /var/lib/registry-cache")
	switch {
	case s.Limit == 0 && v.seen["store.limit"] == 0:
		v.add("store.limit", "is required", "", "write, for example, limit: 20Gi")
	case s.Limit < minStoreLimit:
		v.add("store.limit", "must be at least "+minStoreLimit.String(), s.Limit.String(), "write, for example, limit: 20Gi")
	}
}

// path checks that a required key is an absolute path.
func (v *validator) path(key, path, example string) {
	switch {
	case path == "":
		v.add(key, "is required", "", "write, for example, "+example)
	case !filepath.IsAbs(path) || strings.ContainsRune(path, 0):
		v.add(key, "must be an absolute path", path, "write, for example, "+example)
	}
}

func (v *validator) upstreams(list []Upstream) {
	if len(list) == 0 {
		v.add("upstreams", "must name at least one registry", "",
			"write, for example, upstreams: [{host: us-central1-docker.pkg.dev}]")
	}
	for i, u := range list {
		key := fmt.Sprintf("upstreams[%d]", i)
		v.host(key+".host", u.Host)
		if j := slices.IndexFunc(list[:i], func(o Upstream) bool { return o.Host == u.Host }); j >= 0 && u.Host != "" {
			v.add(key+".host", fmt.Sprintf("is already the host of upstreams[%d]", j), u.Host,
				"remove one of the two, or change the host, for example to host: europe-docker.pkg.dev")
		}
		if u.URL != "" {
			v.url(key+".url", u.URL)
		}
		if u.Credential != nil {
			v.credential(key+".credential", *u.Credential)
		}
	}
}

func (v *validator) host(key, host string) {
	const fix = "write, for example, host: us-central1-docker.pkg.dev"
	switch {
	case host == "":
		v.add(key, "is required", "", fix)
	case len(host) > 255 || !hostnamePattern.MatchString(host):
		v.add(key, "must be a registry's host name in lower case, with an optional port", host, fix)
	}
}

func (v *validator) url(key, value string) {
	const fix = "write, for example, url: https://us-central1-docker.pkg.dev"
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		v.add(key, "must be a URL that begins with https:// or http://", redactUser(value), fix)
	case u.User != nil:
		v.add(key, "must not contain a credential", u.Redacted(), "use, for example, credential: {helper: docker-credential-gcr} instead")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		v.add(key, "must be the root of a registry, without a path or query", value, fix)
	}
}

// redactUser returns a malformed URL without the part that may contain a password.
func redactUser(value string) string {
	if i := strings.LastIndexByte(value, '@'); i >= 0 {
		return "…" + value[i:]
	}
	return value
}

func (v *validator) credential(key string, c Credential) {
	switch {
	case c.Helper == "":
		v.add(key+".helper", "is required", "", "write, for example, helper: docker-credential-gcr")
	case strings.ContainsRune(c.Helper, '/') && !filepath.IsAbs(c.Helper) || strings.ContainsFunc(c.Helper, isSpaceOrNUL):
		v.add(key+".helper", "must be the name or absolute path of a program, without arguments", c.Helper,
			"write, for example, helper: docker-credential-gcr")
	}
	v.duration(key+".lifetime", c.Lifetime, time.Second, "lifetime: 9m")
	v.duration(key+".timeout", c.Timeout, time.Millisecond, "timeout: 10s")
}

func isSpaceOrNUL(r rune) bool { return r == 0 || r == ' ' || r == '\t' || r == '\n' }

func (v *validator) numbers(c *Config) {
	v.duration("tags.ttl", c.Tags.TTL, 0, "ttl: 1s")
	v.duration("fill.stall_timeout", c.Fill.StallTimeout, time.Second, "stall_timeout: 60s")
	v.integer("fill.abandoned", c.Fill.Abandoned, 0, "abandoned: 16")
	v.duration("outage.challenge_timeout", c.Outage.ChallengeTimeout, time.Millisecond, "challenge_timeout: 2s")
	v.duration("outage.manifest_timeout", c.Outage.ManifestTimeout, time.Millisecond, "manifest_timeout: 5s")
	v.duration("outage.blob_timeout", c.Outage.BlobTimeout, time.Millisecond, "blob_timeout: 30s")
	v.duration("outage.remember", c.Outage.Remember, 0, "remember: 3s")
	v.duration("limits.header_timeout", c.Limits.HeaderTimeout, time.Millisecond, "header_timeout: 10s")
	v.duration("limits.idle_timeout", c.Limits.IdleTimeout, time.Millisecond, "idle_timeout: 5m")
	v.duration("limits.send_timeout", c.Limits.SendTimeout, time.Millisecond, "send_timeout: 2m")
	v.integer("limits.unauthenticated_connections", c.Limits.UnauthenticatedConnections, 1, "unauthenticated_connections: 512")
	v.duration("drain", c.Drain, 0, "drain: 60s")
	if h := c.Limits.HeaderBytes; h < minHeaderBytes || h > maxHeaderBytes {
		v.add("limits.header_bytes", fmt.Sprintf("must be from %s to %s", minHeaderBytes, maxHeaderBytes), h.String(),
			"write, for example, header_bytes: 32Ki")
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		v.add("log.level", "must be debug, info, warn or error", c.Log.Level, "write, for example, level: info")
	}
}

func (v *validator) duration(key string, d, least time.Duration, example string) {
	if d < least || d > maxDuration {
		v.add(key, fmt.Sprintf("must be from %s to %s", least, maxDuration), d.String(), "write, for example, "+example)
	}
}

func (v *validator) integer(key string, n, least int, example string) {
	if n < least {
		v.add(key, fmt.Sprintf("must be at least %d", least), strconv.Itoa(n), "write, for example, "+example)
	}
}
