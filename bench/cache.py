# SPDX-License-Identifier: GPL-3.0-or-later
"""This cache: replicas of `registry cache CONFIG`. Each has a separate loopback address, like a pod."""

from __future__ import annotations

import contextlib
import json
import pathlib
import secrets
import shutil
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from sandbox import processes, unprivileged
from sandbox.from_source.programs import registry
from sandbox.steps import StepFailed

from .candidates import OURS, USER, Candidate, credential_helper, htpasswd, running, wait_with_log
from .endpoint import Endpoint
from .paced_upstream.process import Upstream

_READY_SECONDS = 30
# On Linux, all of 127.0.0.0/8 is local. No connections originate from these addresses, so a free port stays free.
_NETWORK = "127.18.0."


def config(
    folder: pathlib.Path, address: str, users: pathlib.Path | None, upstream: Upstream, helper: pathlib.Path, size: int
) -> dict[str, Any]:
    """Returns a replica's configuration without peers. docker/registry/internal/config documents the keys.

    :param address: host and port for clients.
    :param users: htpasswd file; None allows anonymous pulls.
    :param size: the store's limit in bytes.
    """
    return {
        "listen": address,
        "auth": {"htpasswd": str(users)} if users else "none",
        "store": {"path": str(folder / "store"), "limit": size},
        "upstreams": [
            {
                "host": "upstream.bench",
                "url": upstream.url,
                "credential": {"helper": str(helper), "lifetime": "9m"},
            }
        ],
        "log": {"level": "warn"},
    }


def peers(number: int, secret: pathlib.Path, addresses: Sequence[str]) -> dict[str, Any]:
    """Returns the part of a configuration for one of several replicas, which listen for each other at these addresses."""
    members = [{"name": f"replica-{n}", "address": address} for n, address in enumerate(addresses)]
    return {
        "peers": {"name": f"replica-{number}", "listen": addresses[number], "secret": str(secret), "members": members},
        "log": {"level": "info"},  # logs when a replica is considered dead
    }


def _free_ports(hosts: Sequence[str]) -> tuple[int, int]:
    """Returns two ports that are free on every address."""
    while True:
        with contextlib.ExitStack() as stack:
            ports = []
            for _ in range(2):
                first = stack.enter_context(socket.create_server((hosts[0], 0)))
                ports.append(first.getsockname()[1])
            try:
                for host in hosts[1:]:
                    for port in ports:
                        stack.enter_context(socket.create_server((host, port)))
            except OSError:
                continue
            return ports[0], ports[1]


def _wait_until_ready(endpoint: Endpoint, log: pathlib.Path) -> None:
    def ready() -> bool:
        if not processes.running(log.with_suffix(".pid")):
            raise StepFailed("the cache has exited")
        return endpoint.status("/ready") == 200

    wait_with_log(ready, _READY_SECONDS, f"/ready of {endpoint.host}:{endpoint.port}", log)


@contextlib.contextmanager
def cache(
    folder: pathlib.Path,
    upstream: Upstream,
    cost: int = 10,
    replicas: int = 1,
    size: int = 4 << 30,
    cgroup: pathlib.Path | None = None,
) -> Iterator[Candidate]:
    """Runs the cache. `cost`: bcrypt cost, 0 for no authentication; `size`: limit of a replica's store in bytes."""
    with running(OURS, folder, cgroup) as candidate:
        binary = folder / "registry"
        shutil.copy(registry(), binary)  # the original may be readable only for root
        users = htpasswd(folder / "htpasswd", candidate.password, cost) if cost else None
        helper = credential_helper(folder, upstream)
        secret = folder / "secret"
        secret.write_text(f"{secrets.token_hex(16)}\n")
        secret.chmod(0o600)
        homes = [folder / f"{n}" for n in range(replicas)]
        hosts = [f"{_NETWORK}{n + 1}" for n in range(replicas)]
        port, hop = _free_ports(hosts)
        for n, (home, host) in enumerate(zip(homes, hosts, strict=True)):
            (home / "store").mkdir(parents=True)
            more = peers(n, secret, [f"{host}:{hop}" for host in hosts]) if replicas > 1 else {}
            # JSON is valid YAML.
            (home / "config.yaml").write_text(json.dumps(config(home, f"{host}:{port}", users, upstream, helper, size) | more))
        unprivileged.lend(folder)
        candidate.stores = [home / "store" for home in homes]
        logs = [
            candidate.start(f"cache-{n}", unprivileged.command(str(binary), "cache", str(home / "config.yaml")))
            for n, home in enumerate(homes)
        ]
        for host, log in zip(hosts, logs, strict=True):
            candidate.serve(port, USER if cost else "", host)
            _wait_until_ready(candidate.endpoints[-1], log)
        yield candidate
