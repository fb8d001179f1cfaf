# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of a fresh machine: a pair of interfaces, address translation, and this machine's proxies on loopback."""

from __future__ import annotations

import contextlib
import pathlib
import re
import subprocess
from collections.abc import Iterator

from sandbox.steps import StepFailed

from . import host

# Beside the sandbox's networks, which are the upper half of 198.18.0.0/15 and 198.18.64.0 on.
OUTER, _INNER, _BITS = "198.18.32.1", "198.18.32.2", 30
_LINK = "cache-fresh"


def _rules(name: str) -> list[list[str]]:
    """Returns the firewall's rules as table, chain and arguments, with a comment that has the name."""
    mark = ["-m", "comment", "--comment", name]
    rules = [
        ["filter", "FORWARD", "-i", _LINK, "-j", "ACCEPT"],
        ["filter", "FORWARD", "-o", _LINK, "-j", "ACCEPT"],
        ["nat", "POSTROUTING", "-s", f"{_INNER}/32", "!", "-o", _LINK, "-j", "MASQUERADE"],
    ]
    texts = [*host.variables().values(), host.apt_settings(), *host.mirror()]
    ports = {("tcp", port, "127.0.0.1") for text in texts for port in host.LOOPBACK.findall(text)}
    nameservers = re.findall(r"(?m)^nameserver (127\.\S+)", host.resolvers())
    ports |= {(kind, "53", address) for kind in ("tcp", "udp") for address in nameservers}
    for kind, port, address in sorted(ports):
        to = ["-p", kind, "--dport", port, "-j", "DNAT", "--to-destination", f"{address}:{port}"]
        rules.append(["nat", "PREROUTING", "-i", _LINK, "-d", OUTER, *to])
    return [[table, chain, *words, *mark] for table, chain, *words in rules]


def _firewall(name: str, action: str, check: bool) -> None:
    for table, chain, *words in _rules(name):
        subprocess.run(["iptables", "--wait", "--table", table, action, chain, *words], check=check, capture_output=not check)


@contextlib.contextmanager
def connected(name: str, first: str) -> Iterator[None]:
    """Connect the network of a process to this machine's, which forwards and translates addresses.

    :param name: marks the firewall's rules.
    :param first: the pid of the process.
    :raises StepFailed: the addresses are in use.
    """
    if any(not line.startswith("default") for line in host.output("ip", "-4", "route", "show", "match", _INNER).splitlines()):
        raise StepFailed(f"the fresh root's network needs {OUTER}/{_BITS}, to which this machine already has a route")

    def ip(*words: str, inside: bool = False) -> None:
        enter = ["nsenter", "--target", first, "--net"] if inside else []
        subprocess.run([*enter, "ip", *words], check=True)

    forward = pathlib.Path("/proc/sys/net/ipv4/ip_forward")
    before = forward.read_text()
    _firewall(name, "-D", check=False)  # rules of a run that was killed
    try:
        ip("link", "add", _LINK, "type", "veth", "peer", "name", "eth0", "netns", first)
        ip("address", "add", f"{OUTER}/{_BITS}", "dev", _LINK)
        ip("link", "set", _LINK, "up")
        ip("address", "add", f"{_INNER}/{_BITS}", "dev", "eth0", inside=True)
        ip("link", "set", "lo", "up", inside=True)
        ip("link", "set", "eth0", "up", inside=True)
        ip("route", "add", "default", "via", OUTER, inside=True)
        forward.write_text("1")
        pathlib.Path(f"/proc/sys/net/ipv4/conf/{_LINK}/route_localnet").write_text("1")  # to a proxy on loopback
        _firewall(name, "-I", check=True)
        yield
    finally:
        _firewall(name, "-D", check=False)
        forward.write_text(before)
        subprocess.run(["ip", "link", "delete", _LINK], check=False, capture_output=True)
