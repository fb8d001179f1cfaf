# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the load client in bench/load: builds its plans and reads its reports."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox.from_source import tools
from sandbox.settings import CACHE, ROOT, key
from sandbox.steps import StepFailed

from .content import MANIFEST, Blob, Image
from .endpoint import Endpoint

_SOURCE = ROOT / "bench" / "load"
_LIMIT_SECONDS = 600


def binary() -> str:
    """Returns the path of the load client. Builds it unless the cache has it for the current source."""
    return str(tools.install("load client", _SOURCE, CACHE / "bench" / f"load-{key(_SOURCE)}") / "load")


@dataclass(frozen=True)
class Group:
    """A group of clients that do the same. bench/load/plan.go documents the fields of a plan.

    :param credential: send the endpoint's user and password.
    :param options: further fields of the plan.
    :param others: further endpoints, which clients use in turn with the first.
    """

    endpoint: Endpoint
    targets: Sequence[dict[str, Any]]
    clients: int
    name: str = "clients"
    credential: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    others: Sequence[Endpoint] = ()

    def plan(self, variable: str) -> dict[str, Any]:
        """Returns the group for a plan. The password is read from the given environment variable."""
        known = {"user": self.endpoint.user, "password_env": variable} if self.credential and self.endpoint.user else {}
        return {
            "name": self.name,
            "endpoints": [f"{one.host}:{one.port}" for one in (self.endpoint, *self.others)],
            "targets": list(self.targets),
            "clients": self.clients,
            "accept": MANIFEST,
            **known,
            **self.options,
        }


@dataclass(frozen=True)
class Seen:
    """The results of a group. Times are in seconds, by `p50`, `p90`, `p99` and `max`."""

    requests: int
    failed: int
    errors: dict[str, int]
    statuses: dict[str, int]
    bytes: int
    hashed: int
    counted: int
    wall: float
    latency: dict[str, float]
    first_byte: dict[str, float]
    end: dict[str, float]  # since the start of all groups
    connections: int = 0
    closed: int = 0

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.bytes / self.wall

    def right(self) -> Seen:
        """Returns the results. Raises StepFailed if a request failed, since only correct responses may be measured."""
        if self.failed or not self.requests:
            raise StepFailed(f"{self.failed} of {self.requests} requests failed: {self.errors}")
        return self


@dataclass(frozen=True)
class Report:
    """The results of all groups, in their order, and the CPU time of the load client in seconds."""

    groups: list[Seen]
    wall: float
    cpu: float


def blob(image: Image, one: Blob) -> dict[str, Any]:
    """Returns the target for a blob."""
    return {"path": f"/v2/{image.name}/blobs/{one.digest}", "size": one.size}


def manifest(image: Image) -> dict[str, Any]:
    """Returns the target for an image's manifest."""
    return {"path": f"/v2/{image.name}/manifests/{image.manifest.digest}", "size": image.manifest.size}


def whole(image: Image) -> list[dict[str, Any]]:
    """Returns the targets for a pull."""
    return [manifest(image), *(blob(image, one) for one in image.blobs)]


def run(*groups: Group) -> Report:
    """Runs groups of clients at the same time."""
    plan, env = [], dict(os.environ)
    for number, group in enumerate(groups):
        # Pass the password in the environment: other users can read command lines, and a file would have to be removed.
        variable = f"REGISTRY_CACHE_LOAD_PASSWORD_{number}"
        env[variable] = group.endpoint.password
        plan.append(group.plan(variable))
    argv, text = [binary()], json.dumps({"groups": plan})
    try:
        done = subprocess.run(argv, input=text, env=env, capture_output=True, text=True, check=False, timeout=_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise StepFailed(f"the load client did not finish within {_LIMIT_SECONDS} s") from None
    if done.returncode:
        raise StepFailed(done.stderr.strip() or f"the load client exited with status {done.returncode}")
    report = json.loads(done.stdout)
    seen = [Seen(**{name: value for name, value in group.items() if name != "name"}) for group in report["groups"]]
    return Report(seen, report["wall"], report["cpu"])


def one(group: Group) -> Seen:
    """Runs a single group and returns its results. Raises StepFailed if a request failed."""
    return run(group).groups[0].right()


def pulls(endpoint: Endpoint, image: Image, number: int, each: int = 1) -> Seen:
    """Runs `number` clients that pull an image `each` times. Raises StepFailed if a pull failed."""
    return one(Group(endpoint, whole(image), number, options={"kind": "pull", "each": each, "keep": True}))
