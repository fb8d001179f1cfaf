# SPDX-License-Identifier: GPL-3.0-or-later
"""Upgrade from the last version with a front, rollback, and upgrade again, while clients pull."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from sandbox.client import NAMESPACE, Cluster, Google
from sandbox.settings import Sandbox
from tests.e2e.conftest import Push, Say, Site, ansible
from tests.e2e.load import Body, Load
from tests.e2e.replicas import Replicas
from tests.e2e.site.test_site import changed, words

from . import older

Objects = dict[tuple[str, str], dict[str, Any]]
Pull = Callable[[int], list[Body]]

_REPLICAS = 3
_SETTINGS = {
    "registry_cache_replicas": _REPLICAS,
    "registry_cache_users": [
        {"name": "nodes", "password": "{{ lookup('ansible.builtin.file', sandbox_state ~ '/password') }}"},
        # The role generates its password.
        {"name": "team-a", "pull_secret": {"name": "team-a", "namespaces": ["demo"]}},
    ],
}
_SAME = ("--extra-vars", json.dumps(_SETTINGS))
_KINDS = "configmaps,poddisruptionbudgets,secrets,serviceaccounts,services,statefulsets"
_ASSIGNED = ("clusterIP", "clusterIPs")  # assigned to a Service by the cluster

_CLIENTS = 6
_KNOWN, _KNOWN_BYTES, _NEW_BYTES = 6, 16 << 20, 256 << 10
_BYTES_PER_SECOND = 8_000_000  # per client: a large blob takes two seconds
_FEWEST = 60  # pulls during a change, a quarter of them of new images


def objects(cluster: Cluster) -> Objects:
    """Returns the objects in the cache's namespace by kind and name, as roles define them; of Secrets only the keys."""
    found = {}
    for item in cluster.get(_KINDS, "--namespace", NAMESPACE)["items"]:
        metadata, data = item["metadata"], item.get("data", {})
        found[item["kind"], metadata["name"]] = {
            "labels": metadata.get("labels"),
            "annotations": metadata.get("annotations"),
            "spec": {name: value for name, value in item.get("spec", {}).items() if name not in _ASSIGNED},
            "data": sorted(data) if item["kind"] == "Secret" else data,
        }
    return found


def differences(found: Any, wanted: Any, path: str = "") -> list[str]:
    """Returns a line for each difference between two values."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return [] if found == wanted else [f"{path}: {found!r} in place of {wanted!r}"]
    names = sorted({*found, *wanted}, key=str)
    return [line for name in names for line in differences(found.get(name), wanted.get(name), f"{path}/{name}")]


def kept(cluster: Cluster) -> dict[str, Any]:
    """Returns what nodes and users rely on: the Service and its addresses, the passwords and pull secrets, and their versions."""
    service = cluster.get("service", "registry-cache", "--namespace", NAMESPACE)
    secrets = [cluster.get("secret", f"registry-cache-{name}", "--namespace", NAMESPACE) for name in ("passwords", "htpasswd")]
    secrets += cluster.get("secrets", "--namespace", "demo")["items"]
    versions = {
        f"{secret['metadata']['namespace']}/{secret['metadata']['name']}": secret["metadata"]["resourceVersion"] for secret in secrets
    }
    return {"uid": service["metadata"]["uid"], "spec": service["spec"], **versions}


def containers(cluster: Cluster) -> list[set[str]]:
    """Returns the containers of each replica."""
    pods = cluster.get("pods", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/name=registry-cache")["items"]
    return [
        {container["name"] for kind in ("initContainers", "containers") for container in pod["spec"].get(kind, [])} for pod in pods
    ]


def peer_services(cluster: Cluster) -> list[str]:
    """Returns the Services for single replicas, which only the older version has."""
    found = cluster.get("services", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/component=peer")
    return [item["metadata"]["name"] for item in found["items"]]


def adopt(cluster: Cluster) -> None:
    """Label the older version's objects with the cache's namespace, by which this version recognizes its objects."""
    kinds = "configmaps,poddisruptionbudgets,secrets,serviceaccounts,services,statefulsets"
    selector = "app.kubernetes.io/managed-by=pullthrough.registry_cache"
    named = [
        {"kind": item["kind"], "name": item["metadata"]["name"], "namespace": item["metadata"]["namespace"]}
        for item in cluster.get(kinds, "--all-namespaces", "--selector", selector)["items"]
    ]
    result = ansible("playbooks/adopt.yml", "--extra-vars", json.dumps({"registry_cache_adopt": named}))
    assert result.returncode == 0, result.stdout


@pytest.fixture(scope="module")
def wanted(cluster: Cluster, google: Google, site: Site) -> Objects:
    """The objects that this version creates in an empty cluster."""
    google.reset_faults()
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    # An earlier run of these tests may have left the older version.
    older.hand_over_provider(cluster, google)
    result = site(*_SAME)
    assert result.returncode == 0, result.stdout
    return objects(cluster)


@pytest.fixture(scope="module")
def older_site(
    wanted: Objects, cluster: Cluster, google: Google, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Site:
    """site.yml of the older version, which is installed without anything of this version."""
    tree = older.unpack(tmp_path_factory.mktemp("older"))
    playbook = older.site(tree, older.make_images(tree, sandbox))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        result = playbook(*arguments)
        older.hand_over_provider(cluster, google)
        return result

    cluster.kubectl("delete", "namespace", NAMESPACE)
    result = run(*_SAME)
    assert result.returncode == 0, result.stdout
    return run


@pytest.fixture(scope="module")
def pull(cluster: Cluster, authorization: str, push: Push) -> Pull:
    """Returns a job that pulls through the NodePort of each node in turn and checks digests. Every fourth image is new."""
    replicas = Replicas(cluster, authorization)
    known = [push("known", [_KNOWN_BYTES]) for _ in range(_KNOWN)]

    def one(number: int) -> list[Body]:
        image = known[number % _KNOWN] if number % 4 else push("new", [_NEW_BYTES])
        with replicas.at(cluster.nodes[number % len(cluster.nodes)], bytes_per_second=_BYTES_PER_SECOND) as client:
            return client.pull(image)

    return one


def during_pulls(pull: Pull, run: Site, what: str, say: Say) -> None:
    """Run a site.yml while clients pull. No pull may fail."""
    started = time.monotonic()
    with Load(_CLIENTS, pull) as load:
        time.sleep(3)
        result = run(*_SAME)
        took = time.monotonic() - started - 3
        time.sleep(3)
    say(f"{what} in {took:.0f} s: {load.summary()}")
    assert result.returncode == 0, result.stdout
    assert not load.failures, load.failures[:3]
    assert load.pulls >= _FEWEST


def test_upgrade_rollback_and_upgrade(
    older_site: Site, site: Site, wanted: Objects, cluster: Cluster, pull: Pull, say: Say
) -> None:
    assert containers(cluster) == [older.CONTAINERS] * _REPLICAS and peer_services(cluster)
    adopt(cluster)
    before = kept(cluster)

    during_pulls(pull, site, "upgrade", say)
    assert containers(cluster) == [{"registry"}] * _REPLICAS and not peer_services(cluster)
    assert differences(objects(cluster), wanted) == []
    assert kept(cluster) == before
    again = site(*_SAME)
    assert again.returncode == 0 and changed(again.stdout) == 0, again.stdout

    during_pulls(pull, older_site, "rollback", say)
    assert containers(cluster) == [older.CONTAINERS] * _REPLICAS and peer_services(cluster)
    assert kept(cluster) == before

    # The Services for single replicas are created again.
    adopt(cluster)
    during_pulls(pull, site, "upgrade after the rollback", say)
    assert containers(cluster) == [{"registry"}] * _REPLICAS
    assert differences(objects(cluster), wanted) == []
    assert kept(cluster) == before


def test_volumes_with_a_folder_of_the_front_are_refused(older_site: Site, site: Site, cluster: Cluster) -> None:
    """The last test, since it leaves no replicas. A StatefulSet without running pods is enough, so no volume is bound."""
    stateful_set = ("statefulset", "registry-cache", "--namespace", NAMESPACE)
    volumes = {"registry_cache_storage": "volumeClaim", "registry_cache_storage_class": "nowhere"}
    cluster.kubectl("delete", *stateful_set)
    try:
        waited = older_site(*_SAME, "--extra-vars", json.dumps({**volumes, "registry_cache_rollout_timeout": 2}))
        assert waited.returncode != 0 and "registry_cache_rollout_timeout" in words(waited.stdout), waited.stdout
        uid = cluster.get(*stateful_set)["metadata"]["uid"]
        adopt(cluster)
        refused = site(*_SAME, "--extra-vars", json.dumps(volumes))
        assert refused.returncode != 0 and changed(refused.stdout) == 0, refused.stdout
        said = words(refused.stdout)
        assert "volumeClaim content (front, registry) of class nowhere" in said, refused.stdout
        assert f"kubectl delete statefulset registry-cache --namespace {NAMESPACE}" in said
        assert cluster.get(*stateful_set)["metadata"]["uid"] == uid
    finally:
        cluster.kubectl("delete", *stateful_set, "--ignore-not-found")
