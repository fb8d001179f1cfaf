# SPDX-License-Identifier: GPL-3.0-or-later
"""Ours: replicas of varnishd, a registry with the content, and a registry that only checks credentials.

Each replica has a loopback address of its own, as a pod has: the role's own start script and VCL run unchanged.
"""

from __future__ import annotations

import contextlib
import pathlib
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from sandbox import front as front_files
from sandbox import varnish
from sandbox.program import registry
from sandbox.steps import wait

from .candidates import Candidate, credential_helper, htpasswd, own, registry_config, running, unprivileged
from .upstream import Upstream

VARNISH = "9.0"
# 127.0.0.0/8 is this machine's on Linux: an address for each replica.
_NETWORK = "127.18.0."


def _free_ports(addresses: Sequence[str]) -> tuple[int, int]:
    """Two ports that are free on every address."""
    while True:
        with contextlib.ExitStack() as stack:
            ports = []
            for _ in range(2):
                first = stack.enter_context(socket.create_server((addresses[0], 0)))
                ports.append(first.getsockname()[1])
            try:
                for address in addresses[1:]:
                    for port in ports:
                        stack.enter_context(socket.create_server((address, port)))
            except OSError:
                continue
            return ports[0], ports[1]


def _content_config(store: pathlib.Path, sock: pathlib.Path, helper: pathlib.Path, upstream: Upstream, size: int) -> str:
    more: dict[str, Any] = {
        "proxy": {
            "remoteurl": upstream.url,
            "exec": {"command": str(helper), "lifetime": "540s"},
            "ttl": "0",
            "cachewritetimeout": "24h",
        }
    }
    more["middleware"] = {
        "storage": [{"name": "bounded", "options": {"limit": size // 2}}],
        "repository": [{"name": "verify"}],
    }
    return registry_config(store, {"net": "unix", "addr": str(sock)}, **more)


def _connects(sock: pathlib.Path) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(str(sock))
        except OSError:
            return False
    return True


def _meets_peers(folder: pathlib.Path, home: pathlib.Path) -> bool:
    """Whether a front's probes find its registry and all of its peers well."""
    argv = varnish.command(VARNISH, "varnishadm", "-n", f"{home}/run/front", "backend.list", share=[folder])
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    return result.returncode == 0 and "healthy" in result.stdout and "sick" not in result.stdout


@contextlib.contextmanager
def ours(
    folder: pathlib.Path,
    upstream: Upstream,
    cost: int = 10,
    replicas: int = 1,
    size: int = 4 << 30,
    cgroup: pathlib.Path | None = None,
) -> Iterator[Candidate]:
    """The cache. `cost`: of bcrypt; `size`: registry_cache_size of a replica in bytes (a multiple of 1 MiB)."""
    with running("ours", folder, cgroup) as candidate:
        binary = folder / "registry"
        shutil.copy(registry(), binary)  # the cache folder may be closed to others than root
        homes = [folder / f"{n}" for n in range(replicas)]
        peers = [
            {"address": f"{_NETWORK}{n + 1}", "run": f"{home}/run", "etc": f"{home}/etc", "store": f"{home}/store"}
            for n, home in enumerate(homes)
        ]
        for home in homes:
            for name in ("run", "etc", "store"):
                (home / name).mkdir(parents=True)
        front, hop = _free_ports([peer["address"] for peer in peers])
        common = {
            "registry_cache_name": "bench",
            "registry_cache_size": f"{size >> 20}Mi",
            "_registry_cache_peers": [peer["address"] for peer in peers],
            "registry_cache_upstreams": [{"host": f"127.0.0.1:{upstream.port}"}],
            "_registry_cache_front_port": front,
            "_registry_cache_hop_port": hop,
        }
        for peer in peers:
            front_files.render(
                pathlib.Path(peer["etc"]),
                **common,
                _registry_cache_run=peer["run"],
                _registry_cache_front_bind=peer["address"],
                _registry_cache_front_store=f"{peer['store']}/front",
            )
        helper = credential_helper(folder, upstream)
        peer_secret = secrets.token_hex(16)
        users = htpasswd(folder / "htpasswd", candidate.password, cost)
        for home in homes:
            (home / "etc" / "peer").write_text(peer_secret)
            (home / "content.yml").write_text(
                _content_config(home / "store" / "registry", home / "run" / "registry.sock", helper, upstream, size)
            )
            auth = {"htpasswd": {"realm": "registry-cache", "path": str(users)}}
            http = {"net": "unix", "addr": str(home / "run" / "credentials.sock")}
            (home / "credentials.yml").write_text(registry_config(home / "run" / "nothing", http, auth=auth))
        own(folder)
        candidate.stores = [home / "store" for home in homes]
        candidate.before_end = varnish.command(VARNISH, *unprivileged("sh", f"{homes[0]}/etc/drain.sh"), share=[folder])
        quiet = {"OTEL_TRACES_EXPORTER": "none"}
        logs = []
        for n, home in enumerate(homes):
            for name in ("content", "credentials"):
                candidate.start(f"{name}-{n}", unprivileged(str(binary), "serve", str(home / f"{name}.yml")), quiet)
            for name in ("registry", "credentials"):
                wait(lambda s=home / "run" / f"{name}.sock": _connects(s), 20, f"{home}/run/{name}.sock", every=0.05)
            argv = varnish.command(VARNISH, *unprivileged("sh", f"{home}/etc/front.sh"), share=[folder])
            logs.append(candidate.start(f"front-{n}", argv, {"HOSTNAME": f"bench-{n}"}))
        for home, peer, log in zip(homes, peers, logs, strict=True):
            candidate.ready(front, log, host=peer["address"])
            wait(lambda h=home: _meets_peers(folder, h), 20, f"{peer['address']}'s peers", every=0.2)
            candidate.serve(front, host=peer["address"])
        yield candidate
