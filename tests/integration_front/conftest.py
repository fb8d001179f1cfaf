# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures on three replicas; the `front` scenario runs these tests."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import yaml

from sandbox import seed
from sandbox.client import USER, Cache, Cluster, Google
from sandbox.seed import Image
from sandbox.settings import ROOT, Sandbox
from tests.integration.conftest import cache, cluster, google, sandbox  # noqa: F401

from .load import basic
from .replicas import Replicas

REPLICAS = 3
Push = Callable[..., Image]
Say = Callable[[str], None]
Record = Callable[[str, object], None]  # a measure of bench.kind


@pytest.fixture(scope="session")
def users(cache: Cache) -> list[dict[str, Any]]:  # noqa: F811
    """As converge.yml has them."""
    play = yaml.safe_load((ROOT / "molecule" / "front" / "converge.yml").read_text())[-1]
    listed = play["vars"]["registry_cache_users"]
    return [{**user, "password": cache.password} if user["name"] == USER else user for user in listed]


@pytest.fixture(scope="session")
def authorization(cache: Cache) -> str:  # noqa: F811
    return basic(USER, cache.password)


@pytest.fixture(scope="session")
def _replicas(cluster: Cluster, authorization: str) -> Iterator[Replicas]:  # noqa: F811
    made = Replicas(cluster, authorization)
    try:
        made.publish()
        yield made
    finally:
        made.withdraw()


@pytest.fixture
def replicas(_replicas: Replicas, google: Google) -> Iterator[Replicas]:  # noqa: F811
    """Three that know each other, and an upstream without faults."""
    google.reset_faults()
    _replicas.settle(REPLICAS)
    google.reset_counters()
    yield _replicas
    google.reset_faults()


@pytest.fixture(scope="session")
def push(sandbox: Sandbox) -> Iterator[Push]:  # noqa: F811
    """Pushes an image that the cache has never seen: push(name, sizes, content=None)."""
    with seed.operator(sandbox) as client:

        def new(name: str, sizes: Sequence[int], content: str | None = None) -> Image:
            return seed.push(client, f"front-{name}-{secrets.token_hex(4)}", "1.0", sizes, content)

        yield new


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Say:
    """Prints one measured line, whatever pytest captures."""

    def shown(text: str) -> None:
        with capfd.disabled():
            print(f"\n  {text}", flush=True)

    return shown
