# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures with replicas on volumes of limited size. The `faults` scenario runs these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.client import Cluster, Google
from tests.e2e.replicas import Replicas

MOST = 3


@pytest.fixture(scope="session")
def _replicas(cluster: Cluster, authorization: str) -> Iterator[Replicas]:
    made = Replicas(cluster, authorization)
    try:
        made.publish(1)
        yield made
    finally:
        made.withdraw()


@pytest.fixture
def replicas(_replicas: Replicas, cluster: Cluster, google: Google) -> Iterator[Replicas]:
    """Three replicas that know each other, and an upstream without faults."""
    google.reset_faults()
    # Nothing else releases a volume of this class whose claim was deleted when replicas were scaled down.
    for volume in cluster.get("pv")["items"]:
        if volume["status"]["phase"] == "Released":
            cluster.kubectl("patch", "pv", volume["metadata"]["name"], "--patch", '{"spec": {"claimRef": null}}')
    _replicas.scale(MOST)
    _replicas.settle(MOST)
    google.reset_counters()
    yield _replicas
    google.reset_faults()


@pytest.fixture
def alone(_replicas: Replicas, google: Google) -> Iterator[Replicas]:
    """A single replica, which owns every key."""
    google.reset_faults()
    _replicas.scale(1)
    _replicas.settle(1)
    google.reset_counters()
    yield _replicas
    google.reset_faults()
