# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares all objects of the cluster and of Google before site.yml and after the uninstall, also with renames in between.

The namespaces exist before, so that removing a namespace does not hide what is left in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.client import Cluster, Google
from sandbox.settings import NODE_PORT
from tests.e2e import external_secrets, objects
from tests.e2e.conftest import Play, Push
from tests.e2e.objects import Objects

from .conftest import ABSENT, Everything, Run, attached, extra, providers, pull, readers, restart, subject

OLD_HOME, NEW_HOME, PULLS = "old-home", "new-home", "pulls"
# Everything that could be left: entries in service accounts, and objects for external-secrets, some of them cluster-wide.
COMMON: dict[str, Any] = {
    "namespace_create": False,
    "pull_secret_namespaces": [PULLS],
    "pull_secret_service_accounts": ["default"],
    "pull_secret_controller": "external_secrets",
    "pull_secret_name": "registry-cache",
}
OLD = {**COMMON, "name": "old-name", "namespace": OLD_HOME, "wif_provider": "k8s-old-name"}
NEW = {**COMMON, "name": "new-name", "namespace": NEW_HOME, "wif_provider": "k8s-new-name"}
STORES = "clustersecretstores,clusterexternalsecrets"


@pytest.fixture(scope="module", autouse=True)
def _external_secrets(cluster: Cluster) -> Iterator[None]:
    with external_secrets.kinds(cluster):
        yield


@pytest.fixture(scope="module", autouse=True)
def _namespaces(_external_secrets: None, cluster: Cluster, run: Run) -> Iterator[None]:
    with objects.namespaces(cluster, OLD_HOME, NEW_HOME, PULLS):
        yield
        if objects.ours(cluster):  # after a failed test
            for cache in (OLD, NEW):
                run(**cache, **ABSENT)


@pytest.fixture
def before(everything: Everything) -> Objects:
    return everything()


def test_uninstall_and_install_with_another_name(run: Run, everything: Everything, before: Objects, cluster: Cluster) -> None:
    """docs/usage/uninstall.md: to rename a cache or its namespace, uninstall it under the old name and install it under the new one."""
    assert run(**OLD) > 0
    assert len(cluster.get(STORES)["items"]) == 2 and attached(cluster, PULLS) == ["registry-cache"]
    assert run(**OLD, **ABSENT) > 0
    assert objects.left(everything, before) == []

    assert run(**NEW) > 0
    assert run(**NEW, **ABSENT) > 0
    assert objects.left(everything, before) == []


def test_rename_of_a_running_cache(
    run: Run, play: Play, everything: Everything, before: Objects, cluster: Cluster, google: Google, push: Push
) -> None:
    """Remove a cache only from the cluster, then use another provider, then another name of the pull secret."""
    run(**OLD)
    assert readers(google) == {f"k8s-old-name:{subject(OLD_HOME, 'old-name')}"}
    removed = play([("cache", "main"), ("pull_secret", "main")], *extra(**OLD, **ABSENT))
    assert removed.returncode == 0, removed.stdout
    assert readers(google) == {f"k8s-old-name:{subject(OLD_HOME, 'old-name')}"}

    # The service account of its principal is gone.
    same_provider = {**NEW, "wif_provider": "k8s-old-name"}
    run(**same_provider)
    assert readers(google) == {f"k8s-old-name:{subject(NEW_HOME, 'new-name')}"}

    # The provider of this cluster, which no cache uses any more.
    run(**NEW)
    assert readers(google) == {f"k8s-new-name:{subject(NEW_HOME, 'new-name')}"}
    assert providers(google)["k8s-new-name"] == {subject(NEW_HOME, "new-name")}
    restart(cluster, NEW_HOME, "new-name")
    pull(cluster, push, NODE_PORT, PULLS)
    assert run(**NEW) == 0

    another = {**NEW, "pull_secret_name": "another"}
    assert run(**another) > 0
    secrets = cluster.get("secrets", "--namespace", PULLS)["items"]
    assert [item["metadata"]["name"] for item in secrets] == ["another"] and attached(cluster, PULLS) == ["another"]

    run(**another, **ABSENT)
    assert objects.left(everything, before) == []


def test_another_pool(run: Run, play: Play, everything: Everything, before: Objects, google: Google) -> None:
    """docs/usage/uninstall.md: after the run with the new pool, role wif removes the cache's resources in the old one."""
    run(**OLD)
    run(**OLD, wif_pool="another-pool")
    removed = play([("wif", "main")], *extra(**OLD, wif_state="absent"))
    assert removed.returncode == 0, removed.stdout
    assert readers(google) == set() and providers(google) == {}
    run(**OLD, wif_pool="another-pool", **ABSENT)
    assert objects.left(everything, before) == []
