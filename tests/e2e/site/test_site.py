# SPDX-License-Identifier: GPL-3.0-or-later
"""site.yml on a cluster where it has already run: check mode, scaling, proof of the credential chain, bad input."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox.client import NAMESPACE, Cache, Cluster, Google
from sandbox.settings import PROJECT_NUMBER, ROOT, Sandbox
from tests.e2e import objects
from tests.e2e.conftest import Play, Say, Site

POOL = f"/v1/projects/{PROJECT_NUMBER}/locations/global/workloadIdentityPools/registry-cache"
PROVIDER = f"{POOL}/providers/k8s-sandbox"
IAM = "iam.googleapis.com"
# As if another tool managed Google: site.yml does not repair what a test broke.
BY_HAND = (
    "--extra-vars",
    json.dumps({"registry_cache_wif_manage": False, "registry_cache_wif_project_number": PROJECT_NUMBER}),
)
# Runs only the proofs at the end of site.yml.
PROOF = [("cache", "preflight"), ("cache", "verify")]
REPLICAS = ("statefulset", "registry-cache", "--namespace", NAMESPACE)
IMPATIENT = ("--extra-vars", "registry_cache_verify_timeout=3")


def changed(output: str) -> int:
    found = re.search(r"changed=(\d+)", output)
    assert found, output
    return int(found[1])


def words(output: str) -> str:
    """Returns the output without line breaks and escapes, so that sentences can be found in it."""
    return re.sub(r"\s+", " ", output.replace("\\n", " ").replace('\\"', '"'))


def state(cluster: Cluster) -> dict[str, str]:
    """Returns the versions of all objects of the cache in the cluster."""
    kinds = "namespaces,configmaps,secrets,services,serviceaccounts,statefulsets,poddisruptionbudgets"
    items = cluster.get(kinds, "--all-namespaces")["items"]
    return {
        f"{item['kind']}/{item['metadata'].get('namespace')}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
        for item in items
        if item["metadata"].get("namespace") != "kube-system"
    }


def test_check_mode_changes_nothing_and_shows_no_secret(
    site: Site, cluster: Cluster, cache: Cache, sandbox: Sandbox
) -> None:
    before = state(cluster)
    result = site("--check", "--diff", "-vvv")
    assert result.returncode == 0, result.stdout
    assert changed(result.stdout) == 0
    assert state(cluster) == before
    for secret in (cache.password, sandbox.operator_token.read_text().strip(), "$2b$", "ya29."):
        assert secret not in result.stdout + result.stderr


def test_a_run_without_changes_is_quick(site: Site, say: Say) -> None:
    """This includes its proofs. It takes half of the limit on two quiet cores, so more module calls would be noticed."""
    started = time.monotonic()
    result = site()
    took = time.monotonic() - started
    say(f"site.yml without changes: {took:.0f} s")
    assert result.returncode == 0 and changed(result.stdout) == 0, result.stdout
    assert took <= 35


def test_check_mode_shows_what_would_change(site: Site, cluster: Cluster) -> None:
    before = state(cluster)
    result = site("--check", "--diff", "--extra-vars", "registry_cache_token_seconds=7200")
    assert result.returncode == 0, result.stdout
    assert changed(result.stdout) > 0
    assert "7200" in result.stdout
    assert state(cluster) == before


@pytest.fixture
def rerun(play: Play, cluster: Cluster) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs role cache again, with the results of the other roles and the replicas' image."""
    template = cluster.get(*REPLICAS)["spec"]["template"]["spec"]
    (image,) = {container["image"] for container in template["containers"]}
    known = {"registry_cache_image_mode": "published", "registry_cache_image": image}

    def run(**variables: Any) -> subprocess.CompletedProcess[str]:
        told = [("wif", "main"), ("image", "main"), ("cache", "main")]
        result = play(told, *BY_HAND, "--extra-vars", json.dumps(known | variables))
        assert result.returncode == 0, result.stdout
        return result

    return run


def test_rerun_after_kubectl_scale(rerun: Callable[..., subprocess.CompletedProcess[str]], cluster: Cluster) -> None:
    cluster.kubectl("scale", *REPLICAS, "--replicas", "3")
    rerun()
    assert cluster.get(*REPLICAS)["spec"]["replicas"] == 3
    assert len(cluster.replicas()) == 3
    assert changed(rerun(registry_cache_replicas=2).stdout) == 1
    assert cluster.get(*REPLICAS)["spec"]["replicas"] == 2


def test_rerun_after_a_first_run_that_did_not_scale(
    rerun: Callable[..., subprocess.CompletedProcess[str]], cluster: Cluster
) -> None:
    found = cluster.get(*REPLICAS)
    del found["spec"]["replicas"]
    metadata = {key: found["metadata"][key] for key in ("name", "namespace", "labels")}
    unscaled = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": found["spec"]}
    cluster.kubectl("delete", *REPLICAS, "--cascade=orphan")
    cluster.kubectl("apply", "--server-side", "--field-manager=registry-cache", "--filename=-", stdin=json.dumps(unscaled))
    assert cluster.get(*REPLICAS)["spec"]["replicas"] == 1
    rerun()
    assert cluster.get(*REPLICAS)["spec"]["replicas"] == 2


def break_provider(google: Google, **fields: Any) -> None:
    """Change fields of the provider without the playbook, and wait until the change is in effect."""
    google.call("PATCH", IAM, PROVIDER, fields, updateMask=",".join(fields))
    deadline = time.monotonic() + 10
    while any(google.call("GET", IAM, PROVIDER).get(field, False) != value for field, value in fields.items()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


class TestBrokenChain:
    """All replicas have the image in their store, so only the upstream can show a fault.

    All other runs of site.yml show that the proof passes if nothing is broken.
    """

    @pytest.fixture(autouse=True)
    def restored(self, google: Google, cluster: Cluster, cache: Cache) -> Iterator[None]:
        cluster.warm(cache.password, "hello", "1.0")
        policy, provider = google.policy(), google.call("GET", IAM, PROVIDER)
        yield
        google.set_policy({**policy, "etag": google.policy()["etag"]})
        break_provider(google, disabled=provider.get("disabled", False), oidc=provider["oidc"])

    def test_disabled_provider(self, play: Play, google: Google, cache: Cache) -> None:
        break_provider(google, disabled=True)
        result = play(PROOF, *IMPATIENT)
        assert result.returncode != 0
        assert 'The target service indicated by the "audience" parameters is invalid.' in words(result.stdout)
        assert cache.manifest("hello", "1.0").status_code == 200  # cached content is still served

    def test_wrong_audience(self, play: Play, google: Google, cache: Cache) -> None:
        provider = google.call("GET", IAM, PROVIDER)
        break_provider(google, oidc={**provider["oidc"], "allowedAudiences": ["https://example.com/other"]})
        result = play(PROOF, *IMPATIENT)
        assert result.returncode != 0
        own = PROVIDER.removeprefix("/v1/")
        assert f"The audience in ID Token [https://{IAM}/{own}] does not match the expected audience." in words(result.stdout)
        assert cache.manifest("hello", "1.0").status_code == 200

    def test_missing_grant(self, site: Site, google: Google, cache: Cache) -> None:
        google.revoke()
        result = site(*BY_HAND, *IMPATIENT)
        assert result.returncode != 0
        expected = (
            'Permission "artifactregistry.repositories.downloadArtifacts" denied on resource '
            '"projects/demo-project/locations/us-central1/repositories/private" (or it may not exist)'
        )
        assert expected in words(result.stdout)
        assert cache.manifest("hello", "1.0").status_code == 200


# Like the host in sandbox/inventory; the other variables are in its group.
SANDBOX_HOST = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}

# Mistakes of users: the variables of a host, and the words that the message must contain.
BAD_INPUT: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no upstream": ({"registry_cache_upstreams": []}, ("registry_cache_upstreams", "us-central1-docker.pkg.dev")),
    "upstream host with scheme": (
        {"registry_cache_upstreams": [{"host": "https://us-central1-docker.pkg.dev", "repositories": ["p/r"]}]},
        ("registry_cache_upstreams", "us-central1-docker.pkg.dev"),
    ),
    "repository without project": (
        {"registry_cache_upstreams": [{"host": "us-central1-docker.pkg.dev", "repositories": ["private"]}]},
        ("registry_cache_upstreams", "project/repository"),
    ),
    "no user": ({"registry_cache_users": []}, ("registry_cache_users",)),
    "user name with a colon": ({"registry_cache_users": [{"name": "a:b", "password": "x"}]}, ("registry_cache_users", "colon")),
    "password empty": ({"registry_cache_users": [{"name": "nodes", "password": ""}]}, ("registry_cache_users", "password or hash")),
    "password with a line break": (
        {"registry_cache_users": [{"name": "nodes", "password": "from a file\n"}]},
        ("registry_cache_users", "line break"),
    ),
    "user twice": (
        {"registry_cache_users": [{"name": "nodes", "password": "one-of-two"}, {"name": "nodes"}]},
        ("registry_cache_users", "'nodes'", "more than once"),
    ),
    "hash that is not bcrypt": (
        {"registry_cache_users": [{"name": "nodes", "hash": "$apr1$x$y", "password": "one-of-two"}]},
        ("registry_cache_users", "bcrypt", "htpasswd -nB"),
    ),
    "user name reserved for rotations": (
        {"registry_cache_users": [{"name": "nodes"}, {"name": "team.g1"}]},
        ("registry_cache_users", "'team.g1'", "reserved for rotations"),
    ),
    "password other than the one in force": (
        {"registry_cache_users": [{"name": "nodes", "password": "another-of-the-vault"}]},
        ("registry_cache_users", "'nodes' is not the one in force", "playbooks/rotate.yml"),
    ),
    "password with a NUL": ({"registry_cache_users": [{"name": "nodes", "password": "a\0b"}]}, ("registry_cache_users", "NUL")),
    "grace of a year": ({"registry_cache_rotate_grace": 31536000}, ("registry_cache_rotate_grace", "300")),
    "users to rotate not a list": ({"registry_cache_rotate_users": "team-a"}, ("registry_cache_rotate_users", "must be a list", "team-a")),
    "missing external-secrets": (
        {"registry_cache_pull_secret_controller": "external_secrets"},
        ("controller: ", "prefix registry_cache_pull_secret_", "external-secrets.io/v1", "Install external-secrets"),
    ),
    "no credential, unconfirmed": ({"registry_cache_auth": "none"}, ("registry_cache_auth_none_confirmed",)),
    "password too long for bcrypt": (
        {"registry_cache_users": [{"name": "nodes", "password": "x" * 73}]},
        ("registry_cache_users", "72 bytes"),
    ),
    "port out of range": ({"registry_cache_node_port": 80}, ("registry_cache_node_port", "30000")),
    "size without a unit": ({"registry_cache_size": "20"}, ("registry_cache_size", "20Gi")),
    "size too small": ({"registry_cache_size": "1Mi"}, ("registry_cache_size", "64Mi")),
    "no such storage": ({"registry_cache_storage": "hostPath"}, ("registry_cache_storage", "emptyDir", "volumeClaim")),
    "change of the storage": (
        {"registry_cache_storage": "volumeClaim"},
        ("registry_cache_storage", "kubectl delete statefulset registry-cache"),
    ),
    "tag ttl of 0": ({"registry_cache_tag_ttl": 0}, ("registry_cache_tag_ttl", "1 to 86400")),
    "drain of a day": ({"registry_cache_drain_seconds": 86400}, ("registry_cache_drain_seconds", "60")),
    "replicas not a number": ({"registry_cache_replicas": "many"}, ("registry_cache_replicas",)),
    "verify image of another upstream": (
        {"registry_cache_verify_image": "docker.io/library/hello:1.0"},
        ("registry_cache_verify_image", "us-central1-docker.pkg.dev/"),
    ),
    "no CA file": ({"registry_cache_ca_bundle": "/no/such/ca.pem"}, ("registry_cache_ca_bundle", "/no/such/ca.pem")),
    "image that the cache cannot pull itself": (
        {
            "registry_cache_image_mode": "published",
            "registry_cache_image": "us-central1-docker.pkg.dev/demo-project/private/registry-cache:1",
        },
        ("registry_cache_image", "cannot pull its own image", "registry_cache_image_pull_secrets"),
    ),
    "no such kind cluster": (
        {"registry_cache_image_kind_cluster": "nobody-s"},
        ("registry_cache_image_kind_cluster", "nobody-s", "registry-cache-"),
    ),
    "pool id": ({"registry_cache_wif_pool": "gcp-Pool"}, ("registry_cache_wif_pool",)),
    "no cluster": ({"registry_cache_kubeconfig": "/no/such/kubeconfig"}, ("registry_cache_kubeconfig",)),
    "namespace of a pull secret": (
        {"registry_cache_pull_secret_namespaces": ["no-such-namespace"]},
        ("namespaces: ", "prefix registry_cache_pull_secret_", "no-such-namespace"),
    ),
}


# Rows for the existing cache. The others are for new caches, since two hosts must not have the same one.
OF_THE_CACHE = ("password other than the one in force", "change of the storage")


def a_place(number: int) -> dict[str, Any]:
    return {"registry_cache_namespace": f"row-{number}", "registry_cache_node_port": 30100 + number}


@pytest.fixture(scope="module")
def refusals(site: Site, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Returns the failures and the recap line of each row, from a single run with a host for each row of bad input."""
    hosts = {f"row-{number}": name for number, name in enumerate(BAD_INPUT)}
    inventory = tmp_path_factory.mktemp("bad-input") / "hosts.yml"
    cluster_vars = {
        host: SANDBOX_HOST | ({} if name in OF_THE_CACHE else a_place(number)) | BAD_INPUT[name][0]
        for number, (host, name) in enumerate(hosts.items())
    }
    inventory.write_text(json.dumps({"registry_cache_clusters": {"hosts": cluster_vars}}))
    before = state(cluster)
    result = site("--inventory", str(inventory), "--limit", "row-*", "--forks", "4")
    assert result.returncode != 0, result.stdout
    assert state(cluster) == before
    ran, recap = result.stdout.split("PLAY RECAP", 1)
    return {
        name: ("".join(re.findall(rf"^(?:fatal|failed): \[{host}\].*$", ran, re.M)), re.findall(rf"^{host} .*$", recap, re.M)[0])
        for host, name in hosts.items()
    }


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_stops_before_anything_changes(refusals: dict[str, tuple[str, str]], name: str) -> None:
    said, recap = refusals[name]
    assert changed(recap) == 0
    assert re.search(r"failed=1\b", recap), recap
    for part in BAD_INPUT[name][1]:
        assert part in words(said), said


def test_no_engine(site: Site, cluster: Cluster) -> None:
    before = state(cluster)
    result = site("--extra-vars", "registry_cache_image_engine=docker", DOCKER_HOST="unix:///no/such/engine.sock")
    assert result.returncode != 0
    assert changed(result.stdout) == 0
    for part in ("o engine answers", "docker", "registry_cache_image_engine", "registry_cache_image_mode: published"):
        assert part in words(result.stdout), result.stdout
    assert state(cluster) == before


def test_a_node_port_of_another_service_is_refused(site: Site, cluster: Cluster) -> None:
    cluster.kubectl("create", "service", "nodeport", "squatter", "--namespace", "demo", "--tcp=80", "--node-port=30027")
    before = state(cluster)
    try:
        result = site("--extra-vars", "registry_cache_node_port=30027")
        assert result.returncode != 0
        assert changed(result.stdout) == 0
        for part in ("registry_cache_node_port", "30027", "demo/squatter"):
            assert part in words(result.stdout), result.stdout
        assert state(cluster) == before
    finally:
        cluster.kubectl("delete", "service", "squatter", "--namespace", "demo")


def test_a_namespace_that_is_being_deleted(site: Site, cluster: Cluster, google: Google) -> None:
    """It is refused before anything changes at Google."""
    metadata = {"name": "leaving", "finalizers": ["example.com/stays"]}
    cluster.kubectl("create", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
    cluster.kubectl("delete", "namespace", "leaving", "--wait=false")
    before = objects.of_google(google)
    try:
        result = site("--extra-vars", json.dumps({"registry_cache_namespace": "leaving", "registry_cache_node_port": 30027}))
        assert result.returncode != 0 and changed(result.stdout) == 0, result.stdout
        for part in ("registry_cache_namespace", "leaving", "being deleted"):
            assert part in words(result.stdout), result.stdout
        assert objects.of_google(google) == before
    finally:
        cluster.kubectl("patch", "namespace", "leaving", "--type=merge", "--patch", '{"metadata": {"finalizers": null}}')


def test_a_provider_of_another_cluster(site: Site, cluster: Cluster, google: Google) -> None:
    """Two clusters with one provider would replace each other's keys."""
    provider = google.call("GET", IAM, PROVIDER)
    own = cluster.get("namespace", "kube-system")["metadata"]["uid"]
    assert own in provider["description"]
    other = "00000000-0000-4000-8000-000000000000"
    break_provider(google, description=provider["description"].replace(own, other))
    before, found = objects.of_google(google), state(cluster)
    try:
        result = site()
        assert result.returncode != 0 and changed(result.stdout) == 0, result.stdout
        for part in ("registry_cache_wif_provider", "k8s-sandbox", other):
            assert part in words(result.stdout), result.stdout
        assert objects.of_google(google) == before and state(cluster) == found
    finally:
        break_provider(google, description=provider["description"])


def test_a_clone_of_any_name_needs_no_environment(tmp_path: pathlib.Path) -> None:
    clone = tmp_path / "odd name of a clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    command = ["ansible-playbook", "-i", "inventory/example", "playbooks/site.yml", "-e", "vault_registry_cache_password=of-the-vault"]
    tasks = subprocess.run([*command, "--list-tasks"], cwd=clone, env=bare, check=False, capture_output=True, text=True)
    assert tasks.returncode == 0, tasks.stderr
    run = subprocess.run(command, cwd=clone, env=bare, check=False, capture_output=True, text=True)
    # That environment has no cluster: all roles and modules are found, then the preflight reports it.
    assert "couldn't resolve" not in run.stdout + run.stderr
    assert "registry_cache_kubeconfig" in run.stdout, run.stdout + run.stderr
