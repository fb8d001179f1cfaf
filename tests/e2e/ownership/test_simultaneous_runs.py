# SPDX-License-Identifier: GPL-3.0-or-later
"""Two first runs of site.yml at the same time: both succeed, with the same passwords."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sandbox.client import NAMESPACE, Cache, Cluster
from sandbox.settings import NODE_PORT, Sandbox
from tests.e2e import objects
from tests.e2e.conftest import Push, Site
from tests.e2e.replicas import wait

from .conftest import ABSENT, Run, extra, pull

PULLS = "pulls"
# The role generates the passwords of both.
CACHE: dict[str, Any] = {
    "users": [{"name": "nodes"}, {"name": "team-a", "pull_secret": {"name": "team-a", "namespaces": [PULLS]}}],
    "pull_secret_namespaces": [PULLS],
}


@pytest.fixture(autouse=True)
def _namespaces(cluster: Cluster, run: Run) -> Iterator[None]:
    with objects.namespaces(cluster, PULLS):
        yield
        run(**CACHE, **ABSENT)


def credential(cluster: Cluster, name: str) -> tuple[str, str]:
    """Returns the user and password of a pull secret."""
    data = cluster.get("secret", name, "--namespace", PULLS)["data"][".dockerconfigjson"]
    entry = json.loads(base64.b64decode(data))["auths"][f"localhost:{NODE_PORT}"]
    return entry["username"], entry["password"]


def test_two_first_runs_at_once(site: Site, run: Run, cluster: Cluster, sandbox: Sandbox, push: Push) -> None:
    with ThreadPoolExecutor(2) as executor:
        results = list(executor.map(lambda _: site(*extra(**CACHE)), range(2)))
    for result in results:
        assert result.returncode == 0, result.stdout

    data = cluster.get("secret", "registry-cache-passwords", "--namespace", NAMESPACE)["data"]["users"]
    made = {user: record["now"] for user, record in json.loads(base64.b64decode(data)).items()}
    assert made.keys() == {"nodes", "team-a"}
    cache = Cache(sandbox)
    for user, secret in (("nodes", "registry-cache"), ("team-a", "team-a")):
        held = credential(cluster, secret)
        assert held == (made[user]["name"], made[user]["password"])
        # A replica may delay a new credential (429).
        wait(lambda held=held: cache.status(held) == 200, 60, f"access for {user}")
    pull(cluster, push, NODE_PORT, PULLS, "registry-cache")
    # Another run finds nothing to change; it also verifies both users at every replica.
    assert run(**CACHE) == 0
