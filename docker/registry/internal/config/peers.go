// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Peers are the other replicas of the cache. They are found by Service, or listed as Members.
type Peers struct {
	// Listen is the address for the other replicas.
	Listen string `yaml:"listen" example:"listen: \":5005\""`
	// Service is the DNS name of a headless Service with a port named "peers". Its SRV records are the members.
	Service string `yaml:"service,omitempty" example:"service: registry-cache-replicas"`
	// Members lists the replicas if there is no such Service. The list may include this replica.
	Members []Member `yaml:"members,omitempty" example:"members: [{name: registry-cache-1, address: \"10.0.0.2:5005\"}]"`
	// Name is the name of this replica, which is the first label of its name in the SRV records (default: the host
	// name).
	Name string `yaml:"name" example:"name: registry-cache-0"`
	// Secret is the file with the secret that the replicas share; required. While the secret is rotated, the file has
	// the other secret in a second line.
	Secret string `yaml:"secret" example:"secret: /etc/registry-cache/peers/secret"`
}

// A Member is one replica.
type Member struct {
	Name    string `yaml:"name" example:"name: registry-cache-1"`
	Address string `yaml:"address" example:"address: \"10.0.0.2:5005\""`
}

// setDefaults sets the name to the host name, which is the pod's name in a StatefulSet. A host name that cannot be used
// is reported as a problem of peers.name.
func (p *Peers) setDefaults() {
	p.Listen = ":5005"
	name, _ := os.Hostname()
	p.Name, _, _ = strings.Cut(strings.ToLower(name), ".")
}

// endpoint returns the endpoint for the other replicas, or nil if there are none.
func (p *Peers) endpoint() *Endpoint {
	if p == nil {
		return nil
	}
	return &Endpoint{p.Listen}
}

var (
	// memberNamePattern matches a label of a DNS name.
	memberNamePattern = regexp.MustCompile(`^[a-z0-9_-]{1,63}$`)
	// dnsNamePattern matches a DNS name in lower case.
	dnsNamePattern = regexp.MustCompile(`^[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?$`)
)

func (v *validator) peers(p *Peers) {
	if p == nil {
		return
	}
	v.path("peers.secret", p.Secret, "secret: /etc/registry-cache/peers/secret")
	v.memberName("peers.name", p.Name, "name: registry-cache-0")
	const service = "write, for example, service: registry-cache-replicas"
	switch {
	case p.Members != nil && len(p.Members) == 0:
		v.add("peers.members", "must name at least one replica", "", "remove the key, or write, for example, members: [{name: registry-cache-1, address: \"10.0.0.2:5005\"}]")
	case p.Service == "" && len(p.Members) == 0:
		v.add("peers.service", "is required, unless members are listed", "", service)
	case p.Service != "" && len(p.Members) > 0:
		v.add("peers.members", "must not be set together with service", "", "keep one of the two")
	case p.Service != "" && (len(p.Service) > 253 || !dnsNamePattern.MatchString(p.Service)):
		v.add("peers.service", "must be a DNS name in lower case, without a port", p.Service, service)
	}
	for i, m := range p.Members {
		key := fmt.Sprintf("peers.members[%d]", i)
		v.memberName(key+".name", m.Name, "name: registry-cache-1")
		if j := slices.IndexFunc(p.Members[:i], func(o Member) bool { return o.Name == m.Name }); j >= 0 && m.Name != "" {
			v.add(key+".name", fmt.Sprintf("is already the name of peers.members[%d]", j), m.Name,
				"remove one of the two, or change the name, for example to name: registry-cache-2")
		}
		host, port, err := net.SplitHostPort(m.Address)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
			v.add(key+".address", "must be a host and a port", m.Address, "write, for example, address: \"10.0.0.2:5005\"")
		}
	}
}

func (v *validator) memberName(key, name, example string) {
	switch {
	case name == "":
		v.add(key, "is required", "", "write, for example, "+example)
	case !memberNamePattern.MatchString(name):
		v.add(key, "must be 1 to 63 lower-case letters, digits, - or _", name, "write, for example, "+example)
	}
}
