# SPDX-License-Identifier: GPL-3.0-or-later
"""The plain form: the front switched off and on again. It changes every replica."""

from __future__ import annotations

import json
import re
from typing import Any

from sandbox.client import NAMESPACE, USER, Cache, Cluster
from tests.integration.conftest import Site, site  # noqa: F401


def _changed(output: str) -> int:
    found = re.search(r"changed=(\d+)", output)
    assert found, output
    return int(found[1])


def _containers(cluster: Cluster) -> set[str]:
    pods = cluster.get("pods", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/name=registry-cache")["items"]
    return {
        container["name"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        for kind in ("containers", "initContainers")
        for container in pod["spec"].get(kind, [])
    }


def _of_peers(cluster: Cluster) -> int:
    found = cluster.get("services,secrets", "--namespace", NAMESPACE)["items"]
    return sum("-peer" in item["metadata"]["name"] for item in found)


def test_the_front_off_and_on(site: Site, cluster: Cluster, cache: Cache, users: list[dict[str, Any]]) -> None:  # noqa: F811
    same = ("--extra-vars", json.dumps({"registry_cache_users": users}))
    off = (*same, "--extra-vars", "registry_cache_front=false")
    try:
        result = site(*off)
        assert result.returncode == 0, result.stdout
        assert _containers(cluster) == {"registry"}
        assert _of_peers(cluster) == 0
        assert cache.status(None) == 401
        assert cache.status((USER, "wrong")) == 401
        cache.pull("hello", "1.0")
        again = site(*off)
        assert again.returncode == 0 and _changed(again.stdout) == 0, again.stdout
    finally:
        result = site(*same)
    assert result.returncode == 0, result.stdout
    assert _containers(cluster) == {"front", "registry", "credentials", "exporter", "log"}
    assert _of_peers(cluster) > 1
    cache.pull("hello", "1.0")
