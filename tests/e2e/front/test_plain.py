# SPDX-License-Identifier: GPL-3.0-or-later
"""The plain form: the front switched off, the unmodified registry, and the front on again.

The last of the scenario, since every step changes every replica.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest

from sandbox import tools
from sandbox.client import NAMESPACE, USER, Cache, Cluster
from sandbox.settings import REGISTRY_IMAGE, Sandbox
from tests.e2e.conftest import Site


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


def _image(cluster: Cluster, container: str = "registry") -> str:
    found = cluster.get("statefulset", "registry-cache", "--namespace", NAMESPACE)["spec"]["template"]["spec"]
    containers = [one for kind in ("containers", "initContainers") for one in found.get(kind, [])]
    (image,) = [one["image"] for one in containers if one["name"] == container]
    return str(image)


@pytest.fixture(scope="module")
def same(users: list[dict[str, Any]]) -> tuple[str, ...]:
    """The users of the scenario."""
    return ("--extra-vars", json.dumps({"registry_cache_users": users}))


@pytest.fixture(scope="module")
def off(same: tuple[str, ...]) -> tuple[str, ...]:
    return (*same, "--extra-vars", "registry_cache_front=false")


def test_the_registry_alone(site: Site, cluster: Cluster, cache: Cache, off: tuple[str, ...]) -> None:
    result = site(*off)
    assert result.returncode == 0, result.stdout
    assert _containers(cluster) == {"registry"}
    assert _of_peers(cluster) == 0
    assert cache.status(None) == 401
    assert cache.status((USER, "wrong")) == 401
    cache.pull("hello", "1.0")


def test_the_registry_alone_again_changes_nothing(site: Site, off: tuple[str, ...]) -> None:
    again = site(*off)
    assert again.returncode == 0 and _changed(again.stdout) == 0, again.stdout


def test_the_unmodified_registry(site: Site, cluster: Cluster, cache: Cache, sandbox: Sandbox, same: tuple[str, ...]) -> None:
    """It serves a real pull, with a helper out of another image, which here is the one that was built."""
    helper = _image(cluster)
    load = [str(tools.build("registry") / "kind"), "load", "docker-image", REGISTRY_IMAGE, "--name", sandbox.cluster]
    subprocess.run(load, check=True, capture_output=True)
    stock = (*same, "--extra-vars", f"registry_cache_image_mode=stock registry_cache_image_helper={helper}")
    result = site(*stock)
    assert result.returncode == 0, result.stdout
    assert "without the front" in re.sub(r"\s+", " ", result.stdout)
    assert _containers(cluster) == {"registry", "helper"}
    assert _image(cluster) == REGISTRY_IMAGE != helper
    cache.pull("hello", "1.0")
    assert cache.status((USER, "wrong")) == 401
    again = site(*stock)
    assert again.returncode == 0 and _changed(again.stdout) == 0, again.stdout
    refused = site(*stock, "--extra-vars", "registry_cache_front=true")
    assert refused.returncode != 0 and _changed(refused.stdout) == 0, refused.stdout
    assert "registry_cache_front true needs an image with the registry's extensions" in re.sub(r"\s+", " ", refused.stdout)


def test_the_front_again(site: Site, cluster: Cluster, cache: Cache, same: tuple[str, ...]) -> None:
    result = site(*same)
    assert result.returncode == 0, result.stdout
    assert _containers(cluster) == {"front", "registry", "credentials", "exporter", "log"}
    assert _of_peers(cluster) > 1
    cache.pull("hello", "1.0")
