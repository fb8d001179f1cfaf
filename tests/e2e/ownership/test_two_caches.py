# SPDX-License-Identifier: GPL-3.0-or-later
"""Two caches with default names in one cluster: neither changes objects of the other, from the first run to the last uninstall."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.client import USER, Cache, Cluster, Google
from sandbox.settings import Sandbox
from tests.e2e import objects
from tests.e2e.conftest import Push
from tests.e2e.objects import Objects

from .conftest import ABSENT, Everything, Run, attached, providers, pull, readers, restart, subject

PULLS = "pulls"
# Both have a pull secret in the same namespace and service account.
BOTH: dict[str, Any] = {"pull_secret_namespaces": [PULLS], "pull_secret_service_accounts": ["default"]}
ONE: dict[str, Any] = {**BOTH, "namespace": "registry-cache", "node_port": 30026}
TWO: dict[str, Any] = {**BOTH, "namespace": "registry-cache-two", "node_port": 30027}


@pytest.fixture(scope="module")
def before(cluster: Cluster, run: Run, everything: Everything) -> Iterator[Objects]:
    """All objects before the first run."""
    with objects.namespaces(cluster, PULLS):
        yield everything()
        if objects.ours(cluster):  # after a failed test
            for cache in (ONE, TWO):
                run(**cache, **ABSENT)


@pytest.fixture(scope="module")
def runs(before: Objects, run: Run) -> list[tuple[int, int]]:
    """The number of changed tasks in three runs for each cache, one after the other."""
    return [(run(**ONE), run(**TWO)) for _ in range(3)]


def test_second_and_third_runs_change_nothing(runs: list[tuple[int, int]]) -> None:
    assert min(runs[0]) > 0
    assert runs[1:] == [(0, 0), (0, 0)]


def test_one_provider_admits_both(runs: list[tuple[int, int]], google: Google) -> None:
    both = {subject(ONE["namespace"]), subject(TWO["namespace"])}
    assert providers(google) == {"k8s-sandbox": both}
    assert readers(google) == {f"k8s-sandbox:{one}" for one in both}


def pull_secret(cluster: Cluster, cache: dict[str, Any]) -> str:
    """Returns the name of a cache's pull secret."""
    owner = f"registry-cache.pullthrough/namespace={cache['namespace']}"
    (found,) = cluster.get("secrets", "--namespace", PULLS, "--selector", owner)["items"]
    return str(found["metadata"]["name"])


@pytest.mark.parametrize("cache", [ONE, TWO], ids=["one", "two"])
def test_each_cache_accepts_its_pull_secret(
    runs: list[tuple[int, int]], cluster: Cluster, sandbox: Sandbox, push: Push, cache: dict[str, Any]
) -> None:
    own = Cache(sandbox, cache["node_port"])
    assert own.status((USER, own.password)) == 200
    assert sorted(attached(cluster, PULLS)) == sorted(pull_secret(cluster, one) for one in (ONE, TWO))
    pull(cluster, push, cache["node_port"], PULLS)


def of_two(cluster: Cluster) -> Objects:
    """Returns the objects in the second cache's namespace, and its pull secret."""
    mine = f"Secret {PULLS}/{pull_secret(cluster, TWO)}"
    found = objects.of_cluster(cluster)
    return {name: one for name, one in found.items() if name == mine or name.partition(" ")[2].split("/")[0] == TWO["namespace"]}


def test_the_uninstall_of_one_keeps_the_other(
    runs: list[tuple[int, int]], run: Run, cluster: Cluster, sandbox: Sandbox, google: Google, push: Push
) -> None:
    kept = of_two(cluster)
    kinds = {name.split()[0] for name in kept}
    assert {"Namespace", "StatefulSet.apps", "Service", "ConfigMap", "Secret", "ServiceAccount"} <= kinds
    assert run(**ONE, **ABSENT) > 0

    assert objects.differences(kept, of_two(cluster)) == []
    assert attached(cluster, PULLS) == [pull_secret(cluster, TWO)]
    assert providers(google) == {"k8s-sandbox": {subject(TWO["namespace"])}}
    assert readers(google) == {f"k8s-sandbox:{subject(TWO['namespace'])}"}
    # Issued tokens stay valid, so only new replicas show whether Google still exchanges theirs.
    restart(cluster, TWO["namespace"])
    image = push("uncached", [64 << 10])
    blobs, _size, _first = Cache(sandbox, TWO["node_port"]).pull(image.name, image.tag)
    assert blobs == len(image.blobs)
    pull(cluster, push, TWO["node_port"], PULLS)


def test_an_uninstall_again_changes_nothing(runs: list[tuple[int, int]], run: Run) -> None:
    assert run(**ONE, **ABSENT) == 0


def test_the_uninstall_of_the_last_keeps_existing_objects(
    runs: list[tuple[int, int]], before: Objects, run: Run, everything: Everything
) -> None:
    assert run(**TWO, **ABSENT) > 0
    assert objects.left(everything, before) == []
