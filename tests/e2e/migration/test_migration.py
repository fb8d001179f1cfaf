# SPDX-License-Identifier: GPL-3.0-or-later
"""adopt.yml over a registry as Pulumi deploys it, while clients and nodes pull through the NodePort: docs/usage/migrate-from-pulumi.md.

The tests are one story, in this order.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from sandbox.client import NAMESPACE, USER, Cache, Cluster, Google
from sandbox.from_source import tools
from sandbox.settings import NODE_PORT, PROJECT, REGISTRY_IMAGE, REPOSITORY, ROOT, Sandbox
from tests.e2e import objects
from tests.e2e.conftest import Push, Say, Site, ansible
from tests.e2e.load import Body, Failed, Load
from tests.e2e.objects import Objects
from tests.e2e.replicas import Replicas, wait
from tests.e2e.site.test_site import changed, words

from . import pulumi

PULLS, PULL_SECRET = "pulls", "of-pulumi"
_ABSENT = json.dumps({f"registry_cache_{name}": "absent" for name in ("state", "wif_state", "pull_secret_state")})
_KINDS = "configmaps,deployments,poddisruptionbudgets,secrets,serviceaccounts,services,statefulsets"
_FROM_THE_CLUSTER = {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")}
_DRAIN_SECONDS = 60
# Bytes of an image, and bytes per second of a client. A slow pull takes most of the time in which open pulls end.
_FAST, _SLOW = (8 << 20, 8_000_000), (32 << 20, 900_000)
_NEW_BYTES = 256 << 10
_FEWEST, _FEWEST_BY_NODES = 60, 10


@pytest.fixture(scope="module", autouse=True)
def _namespaces(cluster: Cluster, google: Google, site: Site, inventory: tuple[str, str]) -> Iterator[None]:
    """That of the pulls; at the end nothing is left of the cache and of the registry."""
    google.reset_faults()
    before = google.policy()
    with objects.namespaces(cluster, PULLS):
        yield
        removed = site(*inventory, "--extra-vars", _ABSENT)
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    google.set_policy({**before, "etag": google.policy()["etag"]})
    pulumi.remove_account(google)
    assert removed.returncode == 0, removed.stdout


@pytest.fixture(scope="module")
def helper_image(_namespaces: None, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The cache's own image, which holds docker-credential-gcr; it and the registry's image are on every node."""
    folder = tmp_path_factory.mktemp("image")
    roles = [
        {"ansible.builtin.include_role": {"name": "pullthrough.registry_cache.image", "tasks_from": tasks}}
        for tasks in ("preflight", "main")
    ]
    copy = {"content": "{{ registry_cache_image_reference }}", "dest": str(folder / "reference")}
    play = {"hosts": "registry_cache_clusters", "gather_facts": False, "tasks": [*roles, {"ansible.builtin.copy": copy}]}
    (folder / "play.json").write_text(json.dumps([play]))
    made = ansible(str(folder / "play.json"), ANSIBLE_COLLECTIONS_PATH=str(ROOT / "playbooks" / "collections"))
    assert made.returncode == 0, made.stdout
    load = [str(tools.build("registry") / "kind"), "load", "docker-image", REGISTRY_IMAGE, "--name", sandbox.cluster]
    subprocess.run(load, check=True, capture_output=True)
    return (folder / "reference").read_text()


@pytest.fixture(scope="module")
def users(cache: Cache) -> str:
    """The htpasswd file of the old registry."""
    return pulumi.htpasswd(cache.password)


@pytest.fixture(scope="module")
def service(helper_image: str, users: str, cluster: Cluster, google: Google, sandbox: Sandbox, cache: Cache) -> dict[str, Any]:
    """The Service of the Pulumi program, which serves pulls and has a pull secret."""
    pulumi.deploy_google(cluster, google)
    pulumi.deploy(cluster, sandbox, users, helper_image)
    secret = json.dumps(pulumi.pull_secret(PULL_SECRET, cache.password))
    cluster.kubectl("apply", "--namespace", PULLS, "--filename=-", stdin=secret)
    wait(lambda: serves(cache), 60, "the registry serves its NodePort")
    found: dict[str, Any] = cluster.get("service", pulumi.SERVICE, "--namespace", NAMESPACE)
    return found


@pytest.fixture(scope="module")
def variables(users: str) -> dict[str, Any]:
    """The inventory that the page has for this registry."""
    name, _, hashed = users.strip().partition(":")
    return {
        "registry_cache_service_name": pulumi.SERVICE,
        "registry_cache_node_port": NODE_PORT,
        "registry_cache_replicas": 2,
        "registry_cache_drain_seconds": _DRAIN_SECONDS,
        # The old user, and one whose password the role makes, by which the cache proves itself.
        "registry_cache_users": [{"name": name, "hash": hashed, "pull_secret": {"namespaces": []}}, {"name": "made"}],
        "registry_cache_pull_secret_namespaces": [PULLS],
        "registry_cache_wif_pool": pulumi.POOL_ID,
        "registry_cache_wif_service_account": pulumi.EMAIL,
        "registry_cache_adopt_registry": {
            "deployment": pulumi.DEPLOYMENT,
            "image": REGISTRY_IMAGE,
            "htpasswd_secret": pulumi.HTPASSWD,
            "objects": [
                {"kind": "Secret", "name": pulumi.HTPASSWD},
                {"kind": "ConfigMap", "name": pulumi.CONFIG},
                {"kind": "ServiceAccount", "name": pulumi.ACCOUNT},
            ],
        },
        "registry_cache_adopt_google": {"pool": pulumi.POOL_ID, "provider": pulumi.PROVIDER_ID, "members": [pulumi.MEMBER]},
    }


@pytest.fixture(scope="module")
def inventory(variables: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """As arguments: it adds to the sandbox's. Extra variables would have precedence over those of the playbook."""
    path: pathlib.Path = tmp_path_factory.mktemp("inventory") / "hosts.yml"
    path.write_text(json.dumps({"registry_cache_clusters": {"hosts": {"sandbox": variables}}}))
    return "--inventory", str(path)


def serves(cache: Cache) -> bool:
    """Whether a pull succeeds; kube-proxy may not know the NodePort yet."""
    try:
        return cache.pull("hello", "1.0")[0] > 0
    except httpx.HTTPError:
        return False


def state(cluster: Cluster) -> Objects:
    """All objects in the namespace without their status."""
    return {objects.named(item): objects.summary(item) for item in cluster.get(_KINDS, "--namespace", NAMESPACE)["items"]}


# What is named wrongly, and the object that the error names.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another image": ({"image": "registry:2"}, f"Deployment {pulumi.DEPLOYMENT}"),
    "an object of another": ({"objects": [{"kind": "ConfigMap", "name": "kube-root-ca.crt"}]}, "ConfigMap kube-root-ca.crt"),
    "no such Deployment": ({"deployment": "other"}, "Deployment other"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_as_it_is_named_is_refused(
    service: dict[str, Any], variables: dict[str, Any], inventory: tuple[str, str], cluster: Cluster, what: str
) -> None:
    wrong, named = REFUSED[what]
    before = state(cluster)
    given = {"registry_cache_adopt_registry": {**variables["registry_cache_adopt_registry"], **wrong}}
    refused = ansible("playbooks/adopt.yml", *inventory, "--extra-vars", json.dumps(given))
    assert refused.returncode != 0 and changed(refused.stdout) == 0, refused.stdout
    assert named in words(refused.stdout) and "Example: " in refused.stdout, refused.stdout
    assert state(cluster) == before


def test_a_user_who_would_lose_access_is_refused(service: dict[str, Any], inventory: tuple[str, str], cluster: Cluster) -> None:
    before = state(cluster)
    given = json.dumps({"registry_cache_users": [{"name": "made"}]})
    refused = ansible("playbooks/adopt.yml", *inventory, "--extra-vars", given)
    assert refused.returncode != 0 and changed(refused.stdout) == 0, refused.stdout
    assert f"{USER} of Secret {pulumi.HTPASSWD}" in words(refused.stdout), refused.stdout
    assert state(cluster) == before


def test_check_mode_changes_nothing(service: dict[str, Any], inventory: tuple[str, str], cluster: Cluster, google: Google) -> None:
    before = state(cluster), pulumi.live_providers(google), pulumi.account_members(google)
    checked = ansible("playbooks/adopt.yml", *inventory, "--check", "--diff")
    assert checked.returncode == 0 and changed(checked.stdout) > 0, checked.stdout
    assert (state(cluster), pulumi.live_providers(google), pulumi.account_members(google)) == before


def test_no_pull_fails(
    service: dict[str, Any],
    inventory: tuple[str, str],
    cluster: Cluster,
    cache: Cache,
    authorization: str,
    push: Push,
    say: Say,
) -> None:
    replicas = Replicas(cluster, authorization)
    known, large = [push("known", [_FAST[0]]) for _ in range(4)], push("large", [_SLOW[0]])

    def pull(number: int) -> list[Body]:
        """Every fourth pull is of an image that neither registry has."""
        image = known[number % len(known)] if number % 4 else push("new", [_NEW_BYTES])
        with replicas.at(cluster.nodes[number % len(cluster.nodes)], bytes_per_second=_FAST[1]) as client:
            return client.pull(image)

    def pull_slowly(number: int) -> list[Body]:
        with replicas.at(cluster.nodes[number % len(cluster.nodes)], bytes_per_second=_SLOW[1]) as client:
            return client.pull(large)

    # Newer ones try HTTPS first, and a registry:3 may not answer that before their patience ends.
    plain = [node for node in cluster.nodes if cluster.runtime(node).startswith("containerd://1.6.")] or cluster.nodes
    by_nodes = []

    def pull_by_node(number: int) -> list[Body]:
        """By containerd, as a kubelet does, through localhost; it does not repeat a refused connection."""
        node, image = plain[number % len(plain)], push("node", [_NEW_BYTES])
        reference = f"localhost:{NODE_PORT}/{PROJECT}/{REPOSITORY}/{image.name}:{image.tag}"
        try:
            by_nodes.append(cluster.pull(reference, cache.password, node=node))
        except subprocess.CalledProcessError as error:
            if "TLS handshake timeout" in error.stderr:
                return []
            raise Failed(f"{reference} on {node}: {error.stderr}") from error
        cluster.forget_image(reference, node)
        return []

    for image in (*known, large):
        cache.pull(image.name, image.tag)
    started = time.monotonic()
    with ExitStack() as stack:
        fast, slow, nodes = (stack.enter_context(Load(*load)) for load in ((3, pull), (2, pull_slowly), (1, pull_by_node, 0.5)))
        time.sleep(5)
        result = ansible("playbooks/adopt.yml", *inventory)
        took = time.monotonic() - started - 5
        time.sleep(5)
    say(f"handover in {took:.0f} s: {fast.summary()}")
    say(f"slow pulls: {slow.summary()}")
    say(f"pulls by containerd: {len(by_nodes)}, the slowest in {max(by_nodes, default=0):.1f} s, {len(nodes.failures)} failed pulls")
    assert result.returncode == 0, result.stdout
    for load in (fast, slow, nodes):
        assert not load.failures, load.failures[:3]
        # Clients that do not try again after a refused or broken connection must not fail either. A number is a status of HTTP.
        assert [trouble for body in load.bodies for trouble in body.troubles if not trouble.isdigit()] == []
    assert fast.pulls >= _FEWEST and len(by_nodes) >= _FEWEST_BY_NODES and slow.pulls


def test_only_objects_of_the_cache_are_left(service: dict[str, Any], cluster: Cluster, google: Google) -> None:
    def left() -> list[str]:
        items = cluster.get(_KINDS, "--namespace", NAMESPACE)["items"]
        return [
            f"{item['kind']} {item['metadata']['name']}"
            for item in items
            if item["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") != "pullthrough.registry_cache"
            and (item["kind"], item["metadata"]["name"]) not in _FROM_THE_CLUSTER
        ]

    assert left() == []
    now = cluster.get("service", pulumi.SERVICE, "--namespace", NAMESPACE)
    assert now["metadata"]["uid"] == service["metadata"]["uid"]
    assert now["spec"]["clusterIP"] == service["spec"]["clusterIP"]
    assert [port["nodePort"] for port in now["spec"]["ports"]] == [NODE_PORT]
    services = cluster.get("services", "--namespace", NAMESPACE)["items"]
    assert {item["metadata"]["name"] for item in services} == {pulumi.SERVICE, "registry-cache-replicas"}

    assert pulumi.live_providers(google) == ["k8s-sandbox"]
    own = f"principal://iam.googleapis.com/{pulumi.POOL}/subject/k8s-sandbox:system:serviceaccount:{NAMESPACE}:registry-cache"
    assert pulumi.account_members(google) == [own]
    pool = google.call("GET", pulumi.IAM, f"/v1/{pulumi.POOL}")
    assert pool["state"] == "ACTIVE" and pool["description"] == "Made by pullthrough.registry_cache"


@pytest.mark.parametrize("secret", [PULL_SECRET, "registry-cache"])
def test_old_and_new_pull_secrets_are_valid(service: dict[str, Any], cluster: Cluster, push: Push, secret: str) -> None:
    image = push("migrated", [_NEW_BYTES])
    reference = f"localhost:{NODE_PORT}/{PROJECT}/{REPOSITORY}/{image.name}:{image.tag}"
    try:
        cluster.run_pod(image.name, reference, PULLS, secrets=[secret])
        assert cluster.pulled(image.name, reference, PULLS)
    finally:
        cluster.delete_pod(image.name, PULLS)


@pytest.mark.parametrize("playbook", ["adopt", "site"])
def test_another_run_changes_nothing(service: dict[str, Any], inventory: tuple[str, str], playbook: str) -> None:
    again = ansible(f"playbooks/{playbook}.yml", *inventory)
    assert again.returncode == 0 and changed(again.stdout) == 0, again.stdout
