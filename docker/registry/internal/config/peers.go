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

// Peers are the replicas that serve together. Either Service or Members says who they are.
type Peers struct {
	// Listen is the address for the other replicas.
	Listen string `yaml:"listen" example:"listen: \":5005\""`
	// Service is the DNS name of a headless Service that has a port named "peers": its SRV records are the members.
	Service string `yaml:"service,omitempty" example:"service: registry-cache-replicas"`
	// Members are the other replicas where no DNS has them. One may be this replica.
	Members []Member `yaml:"members,omitempty" example:"members: [{name: registry-cache-1, address: \"10.0.0.2:5005\"}]"`
	// Name is this replica's, which is the first label of its name in the SRV records; the host's name if it is missing.
	Name string `yaml:"name" example:"name: registry-cache-0"`
	// Secret is the file with what the replicas share, and while that is renewed with the other secret in a second line; required.
	Secret string `yaml:"secret" example:"secret: /etc/registry-cache/peers/secret"`
}

// A Member is another replica.
type Member struct {
	Name    string `yaml:"name" example:"name: registry-cache-1"`
	Address string `yaml:"address" example:"address: \"10.0.0.2:5005\""`
}

// setDefaults names this replica by its host, as a StatefulSet names its pods. A host that has no usable name is a problem of
// peers.name.
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
	// memberNamePattern is a label of a DNS name.
	memberNamePattern = regexp.MustCompile(`^[a-z0-9_-]{1,63}$`)
	// dnsNamePattern is a name that can be looked up, in lower case.
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
		v.add("peers.members", "must not be set beside service", "", "keep one of the two")
	case p.Service != "" && (len(p.Service) > 253 || !dnsNamePattern.MatchString(p.Service)):
		v.add("peers.service", "must be a DNS name in lower case, without a port", p.Service, service)
	}
	for i, m := range p.Members {
		key := fmt.Sprintf("peers.members[%d]", i)
		v.memberName(key+".name", m.Name, "name: registry-cache-1")
		if j := slices.IndexFunc(p.Members[:i], func(o Member) bool { return o.Name == m.Name }); j >= 0 && m.Name != "" {
			v.add(key+".name", fmt.Sprintf("is that of peers.members[%d] too", j), m.Name,
				"remove one of the two, or correct it, for example to name: registry-cache-2")
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
		v.add(key, "must be 1 to 63 lower-case letters, digits, - and _", name, "write, for example, "+example)
	}
}
