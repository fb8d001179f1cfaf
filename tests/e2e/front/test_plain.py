# SPDX-License-Identifier: GPL-3.0-or-later
"""Without the front: one program per replica, the unmodified registry, and the front on again.

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
from sandbox.settings import NODE_PORT, PROJECT, REGISTRY_IMAGE, REPOSITORY, UPSTREAM_HOST, Sandbox
from tests.e2e.conftest import Push, Say, Site

from .conftest import REPLICAS


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


def _of_peers(cluster: Cluster) -> set[str]:
    """What replicas need to find and to trust each other: the kinds of objects."""
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


@pytest.fixture(scope="module")
def off(same: tuple[str, ...]) -> tuple[str, ...]:
    return (*same, "--extra-vars", "registry_cache_front=false")


def _by_containerd(cluster: Cluster) -> dict[str, str]:
    """A node for each major version of containerd."""
    return {cluster.runtime(node).removeprefix("containerd://").partition(".")[0]: node for node in cluster.nodes}


def _status(cluster: Cluster, address: str, path: str) -> str:
    words = ("--silent", "--output", "/dev/null", "--write-out", "%{http_code}")
    return cluster.on_node("curl", *words, f"http://{address}:5006{path}")


def test_the_registry_alone(site: Site, cluster: Cluster, cache: Cache, push: Push, say: Say, off: tuple[str, ...]) -> None:
    result = site(*off)
    assert result.returncode == 0, result.stdout
    assert _containers(cluster) == {"registry"}
    assert _of_peers(cluster) == {"Secret"}  # no Service for each ordinal
    assert cache.status(None) == 401
    assert cache.status((USER, "wrong")) == 401
    cache.pull("hello", "1.0")

    addresses = cluster.replicas().values()
    assert len(addresses) == REPLICAS
    asked = 0
    for address in addresses:
        shown = cluster.on_node("curl", "--fail", "--silent", "--show-error", f"http://{address}:5006/metrics")
        asked += bool(re.search(rf'(?m)^registry_cache_upstream_requests_total{{.*status="200",upstream="{UPSTREAM_HOST}"}} [1-9]', shown))
        assert re.search(rf'(?m)^registry_cache_peers{{state="in"}} {REPLICAS}$', shown), shown
        # The whole limit of the inventory.
        assert float(re.findall(r"(?m)^registry_cache_disk_limit_bytes (\S+)$", shown)[0]) == 1 << 30
        assert cache.password not in shown
        assert _status(cluster, address, "/ready") == "200" and _status(cluster, address, "/debug/pprof/") == "404"

    assert asked  # for the image that proves it; the others had it from there

    # containerd 2 tries HTTPS first, and goes on only when the answer is HTTP.
    image = push("alone", [1 << 20])
    reference = f"localhost:{NODE_PORT}/{PROJECT}/{REPOSITORY}/{image.name}:{image.tag}"
    nodes = _by_containerd(cluster)
    assert sorted(nodes) == ["1", "2"]
    for version, node in nodes.items():
        pod = f"alone-{version}"
        try:
            seconds = cluster.run_pod(pod, reference, node=node)
            assert cluster.pulled(pod, reference)
            say(f"{cluster.runtime(node)} pulls {reference} in {seconds:.1f} s")
        finally:
            cluster.delete_pod(pod)
            if reference in cluster.images(node):
                cluster.forget_image(reference, node)


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
    assert _containers(cluster) == {"registry", "helper"} and not _of_peers(cluster)
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
    assert _of_peers(cluster) == {"Secret", "Service"}
    cache.pull("hello", "1.0")
