# SPDX-License-Identifier: GPL-3.0-or-later
"""The one program, `registry cache CONFIG`: what will replace the front."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from sandbox import processes
from sandbox.program import registry
from sandbox.steps import StepFailed, wait

from .candidates import USER, Candidate, credential_helper, free_ports, htpasswd, own, running, unprivileged
from .client import Endpoint
from .upstream import Upstream

_READY_SECONDS = 20


def config(
    folder: pathlib.Path, port: int, users: pathlib.Path | None, upstream: Upstream, helper: pathlib.Path, size: int
) -> dict[str, Any]:
    """A replica's configuration. Its keys are those of docker/registry/internal/config.

    :param users: htpasswd file; none: everybody may pull.
    :param size: the store's limit in bytes.
    """
    return {
        "listen": f"127.0.0.1:{port}",
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


def _wait_until_ready(endpoint: Endpoint, log: pathlib.Path) -> None:
    def ready() -> bool:
        if not processes.running(log.with_suffix(".pid")):
            raise StepFailed("the program has ended")
        return endpoint.status("/ready") == 200

    try:
        wait(ready, _READY_SECONDS, f"/ready on port {endpoint.port}", every=0.05)
    except StepFailed as error:
        raise StepFailed(f"{error}; its log ends: {log.read_text(errors='replace')[-600:]}") from None


@contextlib.contextmanager
def cache(
    folder: pathlib.Path,
    upstream: Upstream,
    cost: int = 10,
    replicas: int = 1,
    size: int = 4 << 30,
    cgroup: pathlib.Path | None = None,
    name: str = "cache",
) -> Iterator[Candidate]:
    """The program. `cost`: of bcrypt, 0 without credentials; `size`: the store's limit of a replica in bytes."""
    with running(name, folder, cgroup) as candidate:
        binary = folder / "registry"
        shutil.copy(registry(), binary)  # the cache folder may be closed to others than root
        users = htpasswd(folder / "htpasswd", candidate.password, cost) if cost else None
        helper = credential_helper(folder, upstream)
        homes = [folder / f"{n}" for n in range(replicas)]
        ports = free_ports(replicas)
        for home, port in zip(homes, ports, strict=True):
            (home / "store").mkdir(parents=True)
            # JSON is YAML.
            (home / "config.yaml").write_text(json.dumps(config(home, port, users, upstream, helper, size)))
        own(folder)
        candidate.stores = [home / "store" for home in homes]
        logs = [
            candidate.start(f"cache-{n}", unprivileged(str(binary), "cache", str(home / "config.yaml")))
            for n, home in enumerate(homes)
        ]
        for port, log in zip(ports, logs, strict=True):
            candidate.serve(port, USER if cost else "")
            _wait_until_ready(candidate.endpoints[-1], log)
        yield candidate
