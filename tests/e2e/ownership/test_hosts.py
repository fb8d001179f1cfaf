# SPDX-License-Identifier: GPL-3.0-or-later
"""Several hosts in a play: names with a long common prefix get different providers, and the image is built once."""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
import secrets
import subprocess
from collections.abc import Iterator

import pytest

from sandbox.client import Cluster, Google
from tests.e2e import objects
from tests.e2e.conftest import Play
from tests.e2e.replicas import wait
from tests.e2e.site.test_site import IAM, SANDBOX_HOST

from .conftest import POOL, Everything, extra, providers, readers, subject

# Context names like those of GKE, with 47 characters in common.
NAMES = tuple(f"gke_my-project_europe-west1_production-cluster-{letter}" for letter in "ab")


def inventory(folder: pathlib.Path, *names: str) -> str:
    """Returns an inventory with these names for the sandbox's cluster, each with a cache in another namespace."""
    hosts = {name: {**SANDBOX_HOST, "registry_cache_namespace": f"cache-{number}"} for number, name in enumerate(names)}
    path = folder / "hosts.yml"
    path.write_text(json.dumps({"registry_cache_clusters": {"hosts": hosts}}))
    return str(path)


def provider_of(name: str) -> str:
    """Returns the default provider of a host, according to roles/wif/README.md."""
    readable = re.sub("[^a-z0-9-]", "-", name.lower())[:19]
    return f"k8s-{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def describe(google: Google, provider: str, description: str) -> None:
    path = f"/v1/{POOL}/providers/{provider}"
    google.call("PATCH", IAM, path, {"description": description}, updateMask="description")
    wait(lambda: google.call("GET", IAM, path)["description"] == description, 10, "the description")


def test_names_with_a_long_common_prefix_have_different_providers(
    play: Play, everything: Everything, google: Google, tmp_path: pathlib.Path
) -> None:
    before = everything()
    hosts = ("--inventory", inventory(tmp_path, *NAMES))
    made = play([("wif", "preflight"), ("wif", "main")], *hosts, "--limit", ",".join(NAMES))
    assert made.returncode == 0, made.stdout
    try:
        first, second = map(provider_of, NAMES)
        assert first != second and max(len(first), len(second)) <= 32
        assert providers(google) == {first: {subject("cache-0")}, second: {subject("cache-1")}}
        assert readers(google) == {f"{first}:{subject('cache-0')}", f"{second}:{subject('cache-1')}"}

        # As if from another cluster, since the sandbox has only one.
        own = google.call("GET", IAM, f"/v1/{POOL}/providers/{second}")["description"]
        describe(google, second, re.sub("[0-9a-f-]{36}", "00000000-0000-4000-8000-000000000000", own))
        try:
            removed = play([("wif", "main")], *hosts, "--limit", NAMES[0], *extra(wif_state="absent"))
            assert removed.returncode == 0, removed.stdout
            assert providers(google) == {second: {subject("cache-1")}} and readers(google) == {f"{second}:{subject('cache-1')}"}
        finally:
            describe(google, second, own)
    finally:
        # One after the other, so that the last run finds an empty pool.
        removed = play([("wif", "main")], *hosts, "--limit", ",".join(NAMES), "--forks", "1", *extra(wif_state="absent"))
    assert removed.returncode == 0, removed.stdout
    assert objects.left(everything, before) == []


@pytest.fixture
def image(cluster: Cluster) -> Iterator[str]:
    """The name of an image that does not exist yet."""
    name = f"registry-cache-once-{secrets.token_hex(4)}"
    yield name
    listed = subprocess.run(["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"], capture_output=True, text=True, check=True)
    # By name, since the sandbox's image may have the same content.
    for found in [one for one in listed.stdout.split() if name in one]:
        subprocess.run(["docker", "rmi", "--no-prune", found], capture_output=True, check=True)
    for node in cluster.nodes:
        for found in [one for one in cluster.images(node) if name in one]:
            cluster.on_node("ctr", "--namespace", "k8s.io", "images", "rm", found, node=node)


def test_three_hosts_build_the_image_once(play: Play, image: str, cluster: Cluster, tmp_path: pathlib.Path) -> None:
    names = ("one", "two", "three")
    arguments = ("--inventory", inventory(tmp_path, *names), "--limit", ",".join(names), *extra(image=image))
    entry_points = [("image", "preflight"), ("image", "main")]
    built = play(entry_points, *arguments)
    assert built.returncode == 0, built.stdout
    # The engine's commands are shown while they run. The nodes of a cluster have the same platform.
    assert len(re.findall(r"(?m)^\s*\$ (?:docker|podman) build ", built.stdout)) == 1, built.stdout
    for node in cluster.nodes:
        assert [one for one in cluster.images(node) if f"{image}:" in one]

    again = play(entry_points, *arguments)
    assert again.returncode == 0, again.stdout
    assert re.findall(r"changed=(\d+)", again.stdout) == ["0"] * len(names)
