# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures with three replicas. The `serving` scenario runs these tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from sandbox.client import USER, Cache, Cluster, Google
from sandbox.settings import ROOT
from tests.e2e.replicas import Replicas

REPLICAS = 3


@pytest.fixture(scope="session")
def users(cache: Cache) -> list[dict[str, Any]]:
    """The users of converge.yml."""
    play = yaml.safe_load((ROOT / "molecule" / "serving" / "converge.yml").read_text())[-1]
    listed = play["vars"]["registry_cache_users"]
    return [{**user, "password": cache.password} if user["name"] == USER else user for user in listed]


@pytest.fixture(scope="session")
def _replicas(cluster: Cluster, authorization: str) -> Iterator[Replicas]:
    made = Replicas(cluster, authorization)
    try:
        made.publish()
        yield made
    finally:
        made.withdraw()


@pytest.fixture
def replicas(_replicas: Replicas, google: Google) -> Iterator[Replicas]:
    """Three replicas that know each other, and an upstream without faults."""
    google.reset_faults()
    _replicas.settle(REPLICAS)
    google.reset_counters()
    yield _replicas
    google.reset_faults()
