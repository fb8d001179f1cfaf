# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup host_conflicts: two hosts of a play whose caches conflict."""

from __future__ import annotations

from typing import Any

from ansible_collections.pullthrough.registry_cache.plugins.lookup import host_conflicts


def found(
    cluster: str = "uid-1", namespace: str = "registry-cache", name: str = "registry-cache", port: int | None = 30026
) -> dict[str, Any]:
    return {"cluster": cluster, "cache": f"{cluster}/{namespace}/{name}", "node_port": port}


def conflicts(**others: dict[str, Any]) -> list[str]:
    results = {"here": found(), **others}
    variables = {
        "inventory_hostname": "here",
        "ansible_play_hosts": list(results),
        "hostvars": {host: {"_existing": result} if result else {} for host, result in results.items()},
    }
    return host_conflicts.LookupModule().run(["_existing"], variables)


def test_hosts_without_conflict() -> None:
    assert conflicts() == []
    other_cluster, other_namespace = found("uid-2"), found(namespace="b", port=30027)
    assert conflicts(a=other_cluster, b=other_namespace, c=found(name="c", port=30028), d={}) == []


def test_the_same_cache() -> None:
    (said,) = conflicts(a=found(), b=found("uid-2"))
    assert said.startswith("registry_cache_namespace: hosts here and a ") and "registry-cache/registry-cache" in said
    assert "uid-1" not in said and "Example: registry_cache_namespace: " in said
    # With another port it is still the same cache.
    assert len(conflicts(a=found(port=30027))) == 1


def test_the_same_port() -> None:
    (said,) = conflicts(a=found(namespace="b"))
    assert said.startswith("registry_cache_node_port: hosts here and a ") and "Example: registry_cache_node_port: 30027" in said
    # A cache that is being removed has no port.
    assert conflicts(a=found(namespace="b", port=None)) == []
