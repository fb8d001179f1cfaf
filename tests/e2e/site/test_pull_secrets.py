# SPDX-License-Identifier: GPL-3.0-or-later
"""The role pull_secret in namespaces of these tests, as for a separate cache, with the credential of the cache of site.yml."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox.client import USER, Cache, Cluster
from sandbox.settings import NODE_PORT, PROJECT, REPOSITORY
from tests.e2e.conftest import Play
from tests.e2e.external_secrets import kinds as external_secrets_kinds

from .test_site import changed, words

PREFIX = "pull-secrets"
A, B, C = (f"{PREFIX}-{letter}" for letter in "abc")
# Also the name of the cache, in namespace B: a run for the real cache would remove its pull secrets in other namespaces.
NAME = "pull-secrets-test"
OWNED = ("--selector", f"app.kubernetes.io/instance={NAME},registry-cache.pullthrough/namespace={B}")
TEAM_PASSWORD = "a-password-of-a-team"

Role = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module", autouse=True)
def namespaces(cluster: Cluster) -> Iterator[None]:
    labels = {A: {"team": "a"}, B: {"team": "b"}, C: {"team": "b"}}
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"pull-secrets-test": "yes", **of}}}
        for name, of in labels.items()
    ]
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    deadline = time.monotonic() + 30
    while any(not cluster.kubectl("get", "serviceaccount", "default", "--namespace", name, check=False) for name in labels):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield
    cluster.kubectl("delete", "namespace", *labels)


@pytest.fixture(autouse=True)
def _none_left(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.kubectl("delete", "secrets", "--all-namespaces", *OWNED)


@pytest.fixture
def role(play: Play) -> Role:
    """Runs the role's preflight and the role with more variables."""

    cache = {"name": NAME, "namespace": B, "pull_secret_name": NAME, "pull_secret_namespaces": []}

    def run(*arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        named = {f"registry_cache_{name}": value for name, value in {**cache, **variables}.items()}
        return play([("pull_secret", "preflight"), ("pull_secret", "main")], "--diff", "--extra-vars", json.dumps(named), *arguments)

    return run


def story(role: Role, cluster: Cluster, **variables: Any) -> str:
    """Check that check mode reports a change but makes none, that a run changes, and that a second run does not. Returns its result."""
    before = state(cluster)
    apply(role, True, "--check", **variables)
    assert state(cluster) == before
    said = apply(role, True, **variables)
    apply(role, False, **variables)
    return said


def apply(role: Role, changes: bool, *arguments: str, **variables: Any) -> str:
    result = role(*arguments, **variables)
    assert result.returncode == 0, result.stdout
    assert (changed(result.stdout) > 0) == changes, result.stdout
    for hidden in (TEAM_PASSWORD, base64.b64encode(TEAM_PASSWORD.encode()).decode()):
        assert hidden not in result.stdout + result.stderr
    return result.stdout


def state(cluster: Cluster) -> dict[str, Any]:
    """Returns the versions of the Secrets and service accounts in the namespaces."""
    items = [item for name in (A, B, C) for item in cluster.get("secrets,serviceaccounts", "--namespace", name)["items"]]
    return {f"{item['kind']}/{named(item)}": item["metadata"]["resourceVersion"] for item in items}


def named(item: dict[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def secrets(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Returns the auths of all pull secrets of these tests, by namespace and name."""
    items = cluster.get("secrets", "--all-namespaces", *OWNED, "--field-selector", "type=kubernetes.io/dockerconfigjson")["items"]
    items = [item for item in items if "app.kubernetes.io/component" not in item["metadata"]["labels"]]
    return {named(item): json.loads(base64.b64decode(item["data"][".dockerconfigjson"]))["auths"] for item in items}


def bound(cluster: Cluster, namespace: str) -> list[str]:
    account = cluster.get("serviceaccount", "default", "--namespace", namespace)
    return [entry["name"] for entry in account.get("imagePullSecrets", [])]


def test_changes_of_the_selected_namespaces(role: Role, cluster: Cluster) -> None:
    said = story(role, cluster, pull_secret_namespaces=[A, B])
    assert f"{A}/{NAME}" in said and f"{B}/{NAME}" in said
    made = secrets(cluster)
    assert set(made) == {f"{A}/{NAME}", f"{B}/{NAME}"}
    assert set(made[f"{A}/{NAME}"]) == {f"localhost:{NODE_PORT}", f"127.0.0.1:{NODE_PORT}"}

    apply(role, True, pull_secret_namespace_selector="pull-secrets-test=yes,team in (b)")
    assert set(secrets(cluster)) == {f"{B}/{NAME}", f"{C}/{NAME}"}

    others = [item["metadata"]["name"] for item in cluster.get("namespaces")["items"] if not item["metadata"]["name"].startswith(PREFIX)]
    apply(role, True, pull_secret_exclude_namespaces=[*others, B])
    assert set(secrets(cluster)) == {f"{A}/{NAME}", f"{C}/{NAME}"}

    story(role, cluster, pull_secret_state="absent")
    assert secrets(cluster) == {}


def test_a_pod_pulls_by_its_service_account(role: Role, cluster: Cluster) -> None:
    cluster.kubectl("patch", "serviceaccount", "default", "--namespace", A, "--patch", '{"imagePullSecrets": [{"name": "theirs"}]}')
    apply(role, True, pull_secret_namespaces=[A], pull_secret_service_accounts=["default"])
    assert sorted(bound(cluster, A)) == [NAME, "theirs"]
    image = f"localhost:{NODE_PORT}/{PROJECT}/{REPOSITORY}/hello:1.0"
    # Always: the kubelet uses the pod's credential even if the node has the image.
    container = {"name": "main", "image": image, "imagePullPolicy": "Always"}
    spec = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hello"}, "spec": spec}
    cluster.kubectl("apply", "--namespace", A, "--filename", "-", stdin=json.dumps(pod))
    cluster.kubectl("wait", "--namespace", A, "pod/hello", "--for=condition=Ready", "--timeout=120s")
    assert cluster.pulled("hello", image, A)
    cluster.delete_pod("hello", A)
    apply(role, True, pull_secret_state="absent")
    assert bound(cluster, A) == ["theirs"]


def test_a_pull_secret_that_was_deleted_by_hand(role: Role, cluster: Cluster) -> None:
    """When it is absent, its service account no longer names it, and keeps entries of others."""
    cluster.kubectl("patch", "serviceaccount", "default", "--namespace", A, "--patch", '{"imagePullSecrets": [{"name": "theirs"}]}')
    variables = {"pull_secret_namespaces": [A], "pull_secret_service_accounts": ["default"]}
    apply(role, True, **variables)
    cluster.kubectl("delete", "secret", NAME, "--namespace", A)
    assert sorted(bound(cluster, A)) == [NAME, "theirs"]
    apply(role, True, **variables, pull_secret_state="absent")
    assert bound(cluster, A) == ["theirs"]
    apply(role, False, **variables, pull_secret_state="absent")


def test_each_team_has_a_separate_pull_secret(role: Role, cluster: Cluster, cache: Cache) -> None:
    users = [
        {"name": USER, "password": cache.password},
        {"name": "team-b", "password": TEAM_PASSWORD, "pull_secret": {"namespace_selector": "pull-secrets-test,team=b"}},
        {"name": "guest", "password": TEAM_PASSWORD, "pull_secret": {"name": "guest", "namespaces": [A]}},
        {"name": "ci", "hash": "$2b$05$abcdefghijklmnopqrstuv", "pull_secret": {"namespaces": []}},
    ]
    apply(role, True, users=users, pull_secret_namespaces=[A])
    apply(role, False, users=users, pull_secret_namespaces=[A])
    made = {key: auths[f"localhost:{NODE_PORT}"] for key, auths in secrets(cluster).items()}
    assert {key: entry["username"] for key, entry in made.items()} == {
        f"{A}/{NAME}": USER,
        f"{A}/guest": "guest",
        f"{B}/{NAME}": "team-b",
        f"{C}/{NAME}": "team-b",
    }
    assert made[f"{A}/{NAME}"]["password"] == cache.password and made[f"{A}/guest"]["password"] == TEAM_PASSWORD


def test_a_generated_password(role: Role, cluster: Cluster) -> None:
    """The role cache stores it in the Secret NAME-passwords."""
    variables = {"users": [{"name": "team"}], "pull_secret_namespaces": [A]}
    apply(role, True, "--check", **variables)
    before = state(cluster)
    missing = role(**variables)
    assert missing.returncode != 0 and changed(missing.stdout) == 0 and state(cluster) == before
    for part in ("registry_cache_users", "user team", f"{NAME}-passwords", "Run role cache before"):
        assert part in words(missing.stdout), missing.stdout
    held = json.dumps({"team": {"now": {"name": "team.g1", "password": TEAM_PASSWORD}}})
    cluster.kubectl("create", "secret", "generic", f"{NAME}-passwords", "--namespace", B, f"--from-literal=users={held}")
    try:
        # The password in the cache takes precedence over the inventory.
        for user in ({"name": "team"}, {"name": "team", "password": "of-the-vault-by-now"}):
            apply(role, "password" not in user, **{**variables, "users": [user]})
            entry = secrets(cluster)[f"{A}/{NAME}"][f"localhost:{NODE_PORT}"]
            assert (entry["username"], entry["password"]) == ("team.g1", TEAM_PASSWORD)
    finally:
        cluster.kubectl("delete", "secret", f"{NAME}-passwords", "--namespace", B)


HASHED = {"name": "ci", "hash": "$2b$05$abcdefghijklmnopqrstuv"}
# Refusals of the role, and those of the module, which also have unit tests.
BAD_INPUT: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no selector": (
        {"pull_secret_namespace_selector": "team in b"},
        ("namespace_selector: must be a label selector (got 'team in b'", "HTTP 400", "prefix registry_cache_pull_secret_"),
    ),
    "two choices": (
        {"pull_secret_namespaces": [A], "pull_secret_exclude_namespaces": []},
        ("registry_cache_pull_secret_exclude_namespaces. Set one of them",),
    ),
    "hash without a password": (
        {"users": [HASHED], "pull_secret_namespaces": [A]},
        ("registry_cache_users: user ci has only a hash", "Set the password"),
    ),
    "two users for one Secret": (
        {"users": [{"name": name, "password": "x"} for name in ("one", "two")], "pull_secret_namespaces": [A]},
        ("name: users 'one' and 'two' would both use", "registry_cache_pull_secret_name"),
    ),
    "password of 73 bytes": (
        {"users": [{"name": "team", "password": "x" * 73}], "pull_secret_namespaces": [A]},
        ("registry_cache_users:", "72 bytes"),
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_stops_before_anything_changes(role: Role, cluster: Cluster, name: str) -> None:
    variables, expected = BAD_INPUT[name]
    before = state(cluster)
    result = role(**variables)
    assert result.returncode != 0 and changed(result.stdout) == 0, result.stdout
    for part in expected:
        assert part in words(result.stdout), result.stdout
    assert state(cluster) == before


def test_a_secret_of_somebody_else_is_refused(role: Role, cluster: Cluster) -> None:
    cluster.kubectl("create", "secret", "generic", NAME, "--namespace", C, "--from-literal=key=theirs")
    before = state(cluster)
    try:
        result = role(pull_secret_namespaces=[A, C])
        assert result.returncode != 0 and changed(result.stdout) == 0, result.stdout
        assert f"name: Secret {C}/{NAME}" in words(result.stdout), result.stdout
        assert role(pull_secret_state="absent").returncode == 0
        assert state(cluster) == before
    finally:
        cluster.kubectl("delete", "secret", NAME, "--namespace", C)


def test_a_namespace_that_is_being_deleted(role: Role, cluster: Cluster) -> None:
    leaving = f"{PREFIX}-leaving"
    metadata = {"name": leaving, "labels": {"pull-secrets-test": "yes"}, "finalizers": ["example.com/stays"]}
    cluster.kubectl("create", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
    cluster.kubectl("delete", "namespace", leaving, "--wait=false")
    try:
        result = role(pull_secret_namespaces=[leaving])
        assert result.returncode != 0 and f"namespace {leaving} is being deleted" in words(result.stdout), result.stdout
        apply(role, True, pull_secret_namespace_selector="pull-secrets-test")
        assert f"{leaving}/{NAME}" not in secrets(cluster)
    finally:
        cluster.kubectl("patch", "namespace", leaving, "--type=merge", "--patch", '{"metadata": {"finalizers": null}}')


@pytest.fixture
def external_secrets(cluster: Cluster) -> Iterator[None]:
    with external_secrets_kinds(cluster):
        yield


CONTROLLED = "clustersecretstores,clusterexternalsecrets,roles,rolebindings,serviceaccounts,secrets"
SOURCE = f"{NAME}-pull-{USER}"


def controlled(cluster: Cluster, kinds: str = CONTROLLED) -> set[str]:
    selector = "app.kubernetes.io/component=pull-secret-source"
    items = cluster.get(kinds, "--namespace", B, "--selector", selector)["items"]
    return {f"{item['kind']}/{item['metadata']['name']}" for item in items}


# Runs before the kinds exist, since kubernetes.core caches the kinds of a cluster.
def test_a_missing_controller(role: Role, cluster: Cluster) -> None:
    before = state(cluster)
    result = role(pull_secret_namespaces=[A], pull_secret_controller="external_secrets")
    assert result.returncode != 0 and changed(result.stdout) == 0, result.stdout
    assert "controller: the cluster does not have ClusterSecretStore" in words(result.stdout), result.stdout
    result = role(pull_secret_exclude_namespaces=["kube-system"], pull_secret_controller="reflector")
    assert result.returncode != 0 and changed(result.stdout) == 0, result.stdout
    assert "exclude_namespaces: it must contain the cache's namespace" in words(result.stdout), result.stdout
    assert state(cluster) == before


def test_objects_for_external_secrets(role: Role, cluster: Cluster, external_secrets: None) -> None:
    variables = {"pull_secret_namespace_selector": "team=b"}
    on = {**variables, "pull_secret_controller": "external_secrets"}
    apply(role, True, **on)
    kinds = ("Role", "RoleBinding", "ServiceAccount", "Secret")

    def sources(user: str) -> set[str]:
        name = f"{NAME}-pull-{user}"
        return {f"{kind}/{name}" for kind in kinds} | {f"Cluster{kind}/{name}.{B}" for kind in ("SecretStore", "ExternalSecret")}

    assert controlled(cluster) == sources(USER)
    assert set(secrets(cluster)) == {f"{B}/{NAME}", f"{C}/{NAME}"}
    apply(role, False, **on)
    # Its service account can read only this credential.
    may = ("auth", "can-i", "get", "--namespace", B, f"--as=system:serviceaccount:{B}:{SOURCE}")
    answers = [cluster.kubectl(*may, f"secret/{name}", check=False).strip() for name in (SOURCE, NAME)]
    assert answers == ["yes", "no"]

    # A removed user.
    team = {"name": "team", "password": TEAM_PASSWORD}
    apply(role, True, **{**on, "users": [team]})
    assert controlled(cluster) == sources("team")
    apply(role, True, **variables)
    assert controlled(cluster) == set() and len(secrets(cluster)) == 2

    # The documented uninstall does not name the controller, and the cache's namespace may already be deleted.
    apply(role, True, **on)
    cluster.kubectl(
        "delete", "roles,rolebindings,serviceaccounts,secrets", "--namespace", B, "--selector", f"app.kubernetes.io/instance={NAME}"
    )
    apply(role, True, pull_secret_state="absent")
    assert controlled(cluster) == set() and secrets(cluster) == {}
    apply(role, False, pull_secret_state="absent")


def test_a_source_for_reflector(role: Role, cluster: Cluster) -> None:
    variables = {"pull_secret_namespaces": [A]}
    on = {**variables, "pull_secret_controller": "reflector"}
    apply(role, True, **on)
    assert controlled(cluster, "secrets") == {f"Secret/{NAME}"} and f"{A}/{NAME}" in secrets(cluster)

    # Like a copy that reflector makes in a new namespace.
    source = cluster.get("secret", NAME, "--namespace", B)
    reflector = "reflector.v1.k8s.emberstack.com"
    assert source["metadata"]["annotations"][f"{reflector}/reflection-auto-namespaces"] == A
    annotations = {f"{reflector}/reflects": f"{B}/{NAME}", f"{reflector}/auto-reflects": "True"}
    metadata = {"name": NAME, "namespace": C, "annotations": annotations}
    copy = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": source["type"], "data": source["data"]}
    cluster.kubectl("create", "--filename=-", stdin=json.dumps(copy))
    both = {**on, "pull_secret_namespaces": [A, C]}
    apply(role, True, **both)
    assert f"{C}/{NAME}" in secrets(cluster)
    assert f"{reflector}/reflects" not in cluster.get("secret", NAME, "--namespace", C)["metadata"].get("annotations", {})
    apply(role, False, **both)

    apply(role, True, **{**both, "pull_secret_controller": "none"})
    assert controlled(cluster, "secrets") == set() and {f"{A}/{NAME}", f"{C}/{NAME}"} <= set(secrets(cluster))
    apply(role, True, pull_secret_state="absent")
    assert secrets(cluster) == {}
