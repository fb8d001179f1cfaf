# SPDX-License-Identifier: GPL-3.0-or-later
"""The unmodified registry instead of the image of the cache, then the cache again.

These are the last tests of the scenario, because each of them changes all replicas.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest

from sandbox.client import NAMESPACE, USER, Cache, Cluster
from sandbox.from_source import tools
from sandbox.settings import REGISTRY_IMAGE, Sandbox
from tests.e2e.conftest import Site
from tests.e2e.site.test_site import changed


def _containers(cluster: Cluster) -> set[str]:
    pods = cluster.get("pods", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/name=registry-cache")["items"]
    return {
        container["name"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        for kind in ("containers", "initContainers")
        for container in pod["spec"].get(kind, [])
    }


def _of_peers(cluster: Cluster) -> set[str]:
    """Returns the kinds of objects with which replicas find and trust each other."""
    found = cluster.get("services,secrets", "--namespace", NAMESPACE)["items"]
    return {item["kind"] for item in found if "-peer" in item["metadata"]["name"]}


def _image(cluster: Cluster, container: str = "registry") -> str:
    found = cluster.get("statefulset", "registry-cache", "--namespace", NAMESPACE)["spec"]["template"]["spec"]
    containers = [one for kind in ("containers", "initContainers") for one in found.get(kind, [])]
    (image,) = [one["image"] for one in containers if one["name"] == container]
    return str(image)


@pytest.fixture(scope="module")
def same(users: list[dict[str, Any]]) -> tuple[str, ...]:
    """The users of the scenario."""
    return ("--extra-vars", json.dumps({"registry_cache_users": users}))


def test_the_unmodified_registry(site: Site, cluster: Cluster, cache: Cache, sandbox: Sandbox, same: tuple[str, ...]) -> None:
    """It serves a real pull, with a credential helper from another image, here the built one."""
    helper = _image(cluster)
    load = [str(tools.build("registry") / "kind"), "load", "docker-image", REGISTRY_IMAGE, "--name", sandbox.cluster]
    subprocess.run(load, check=True, capture_output=True)
    stock = (*same, "--extra-vars", f"registry_cache_image_mode=stock registry_cache_image_helper={helper}")
    result = site(*stock)
    assert result.returncode == 0, result.stdout
    assert "registry_cache_image_mode is stock" in re.sub(r"\s+", " ", result.stdout)
    assert _containers(cluster) == {"registry", "helper"} and not _of_peers(cluster)
    assert _image(cluster) == REGISTRY_IMAGE != helper
    cache.pull("hello", "1.0")
    assert cache.status((USER, "wrong")) == 401
    again = site(*stock)
    assert again.returncode == 0 and changed(again.stdout) == 0, again.stdout


def test_the_cache_again(site: Site, cluster: Cluster, cache: Cache, same: tuple[str, ...]) -> None:
    result = site(*same)
    assert result.returncode == 0, result.stdout
    assert _containers(cluster) == {"registry"}
    assert _of_peers(cluster) == {"Secret"}
    cache.pull("hello", "1.0")
