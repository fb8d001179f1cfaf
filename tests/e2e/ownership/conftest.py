# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures: runs of site.yml with variables, and namespaces. Each test file starts and ends without a cache."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from sandbox.client import Cluster, Google
from sandbox.settings import PROJECT, PROJECT_NUMBER, REPOSITORY
from tests.e2e import objects
from tests.e2e.conftest import Push, Site
from tests.e2e.objects import Objects
from tests.e2e.site.test_site import changed

Run = Callable[..., int]
Everything = Callable[[], Objects]

# The uninstall of docs/usage/uninstall.md.
ABSENT = {"state": "absent", "wif_state": "absent", "pull_secret_state": "absent"}
POOL = f"projects/{PROJECT_NUMBER}/locations/global/workloadIdentityPools/registry-cache"


def extra(**variables: Any) -> tuple[str, str]:
    """Returns arguments of ansible-playbook for variables, given without the prefix registry_cache_."""
    return "--extra-vars", json.dumps({f"registry_cache_{name}": value for name, value in variables.items()})


@pytest.fixture(scope="session")
def run(site: Site) -> Run:
    """Runs site.yml with variables. It must succeed. Returns the number of changed tasks."""

    def succeed(**variables: Any) -> int:
        result = site(*extra(**variables))
        assert result.returncode == 0, result.stdout
        return changed(result.stdout)

    return succeed


@pytest.fixture(scope="session")
def everything(cluster: Cluster, google: Google) -> Everything:
    """Returns a function that reads all objects of the cluster and of Google."""
    return lambda: objects.of_cluster(cluster) | objects.of_google(google)


def readers(google: Google) -> set[str]:
    """Returns the subjects of this cluster's pool that may read the private repository."""
    members = [member for binding in google.policy().get("bindings", []) for member in binding["members"]]
    prefix = f"principal://iam.googleapis.com/{POOL}/subject/"
    return {member.removeprefix(prefix) for member in members if member.startswith(prefix)}


def providers(google: Google) -> dict[str, set[str]]:
    """Returns the active providers of the pool by id, with the service accounts that their conditions allow."""
    found = objects.of_google(google)
    prefix = f"provider {POOL}/providers/"
    return {
        name.removeprefix(prefix): set(re.findall(r"system:serviceaccount:[^'\"]+", provider.get("attributeCondition", "")))
        for name, provider in found.items()
        if name.startswith(prefix) and provider["state"] == "ACTIVE"
    }


def subject(namespace: str, name: str = "registry-cache") -> str:
    return f"system:serviceaccount:{namespace}:{name}"


def restart(cluster: Cluster, namespace: str, name: str = "registry-cache") -> None:
    """Replace all replicas, so that none has an image or a Google token."""
    where = (f"statefulset/{name}", "--namespace", namespace)
    cluster.kubectl("rollout", "restart", *where)
    cluster.kubectl("rollout", "status", *where, "--timeout=180s")


def pull(cluster: Cluster, push: Push, port: int, namespace: str, *secrets: str) -> None:
    """Run a pod with a new image, with these pull secrets or those of its service account."""
    image = push("ownership", [64 << 10])
    reference = f"localhost:{port}/{PROJECT}/{REPOSITORY}/{image.name}:{image.tag}"
    try:
        cluster.run_pod(image.name, reference, namespace, secrets=secrets)
        assert cluster.pulled(image.name, reference, namespace)
    finally:
        cluster.delete_pod(image.name, namespace)
        if reference in cluster.images():
            cluster.forget_image(reference)


def attached(cluster: Cluster, namespace: str) -> list[str]:
    """Returns the pull secrets of a namespace's default service account."""
    account = cluster.get("serviceaccount", "default", "--namespace", namespace)
    return [entry["name"] for entry in account.get("imagePullSecrets", [])]
