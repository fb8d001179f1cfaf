# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of others with names that site.yml needs. It refuses them before any change, and never removes them."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sandbox.client import USER, Cluster
from tests.e2e import external_secrets, objects
from tests.e2e.conftest import Site
from tests.e2e.objects import Objects

from .test_site import SANDBOX_HOST, changed, words

# A namespace without objects of others.
EMPTY = "foreign-empty"
HELM = {"app.kubernetes.io/managed-by": "Helm"}
DOCKERCONFIGJSON = {
    "type": "kubernetes.io/dockerconfigjson",
    "data": {".dockerconfigjson": base64.b64encode(b'{"auths": {}}').decode()},
}
SELECTOR = {"matchLabels": {"app": "theirs"}}
RBAC, ESO = "rbac.authorization.k8s.io/v1", "external-secrets.io/v1"


@dataclass(frozen=True)
class Foreign:
    """An object of others, the variables of the host that would write it, and the variable that the message names."""

    kind: str
    name: str = "registry-cache"
    api_version: str = "v1"
    fields: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    variable: str = "registry_cache_name"
    namespaced: bool = True

    def called(self, namespace: str) -> str:
        """Returns the name of the object. Names of cluster-scoped objects contain the namespace."""
        return self.name if self.namespaced else f"{self.name}.{namespace}"

    def manifest(self, namespace: str) -> dict[str, Any]:
        metadata = {"name": self.called(namespace), "labels": HELM, **({"namespace": namespace} if self.namespaced else {})}
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata, **self.fields}


def secret(suffix: str) -> Foreign:
    return Foreign("Secret", f"registry-cache-{suffix}", fields={"data": {"theirs": base64.b64encode(b"theirs").decode()}})


def controlled(kind: str, cache: str, api_version: str = "v1", namespaced: bool = True, **fields: Any) -> Foreign:
    """Returns the variables for external-secrets. Pull secrets of rows share a namespace, so their names differ."""
    variables = {
        "registry_cache_name": cache,
        "registry_cache_pull_secret_controller": "external_secrets",
        "registry_cache_pull_secret_namespaces": [EMPTY],
        "registry_cache_pull_secret_name": cache,
    }
    return Foreign(kind, f"{cache}-pull-{USER}", api_version, fields, variables, "registry_cache_", namespaced)


CONTAINER = {"name": "main", "image": "localhost/none"}
FOREIGN: dict[str, Foreign] = {
    "Service": Foreign("Service", fields={"spec": {"ports": [{"port": 80}]}}),
    "Service of the replicas": Foreign("Service", "registry-cache-replicas", fields={"spec": {"ports": [{"port": 80}]}}),
    "ConfigMap": Foreign("ConfigMap", fields={"data": {"theirs": "theirs"}}),
    "ServiceAccount": Foreign("ServiceAccount"),
    "StatefulSet": Foreign(
        "StatefulSet",
        api_version="apps/v1",
        fields={
            "spec": {
                "replicas": 0,
                "serviceName": "theirs",
                "selector": SELECTOR,
                "template": {"metadata": {"labels": SELECTOR["matchLabels"]}, "spec": {"containers": [CONTAINER]}},
            }
        },
    ),
    "PodDisruptionBudget": Foreign(
        "PodDisruptionBudget", api_version="policy/v1", fields={"spec": {"maxUnavailable": 1, "selector": SELECTOR}}
    ),
    "Secret of the htpasswd file": secret("htpasswd"),
    "Secret of the passwords": secret("passwords"),
    "Secret of the replicas": secret("peers"),
    "pull secret": Foreign(
        "Secret",
        "their-pull-secret",
        fields=DOCKERCONFIGJSON,
        variables={
            "registry_cache_pull_secret_name": "their-pull-secret",
            "registry_cache_pull_secret_namespaces": ["{{ registry_cache_namespace }}"],
        },
        variable="registry_cache_pull_secret_name",
    ),
    "source for reflector": Foreign(
        "Secret",
        "their-source",
        fields=DOCKERCONFIGJSON,
        variables={
            "registry_cache_pull_secret_name": "their-source",
            "registry_cache_pull_secret_controller": "reflector",
            "registry_cache_pull_secret_namespaces": [EMPTY],
        },
        variable="registry_cache_pull_secret_name",
    ),
    "Secret for external-secrets": controlled("Secret", "foreign-a"),
    "ServiceAccount for external-secrets": controlled("ServiceAccount", "foreign-b"),
    "Role for external-secrets": controlled("Role", "foreign-c", RBAC, rules=[]),
    "RoleBinding for external-secrets": controlled(
        "RoleBinding", "foreign-d", RBAC, roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "theirs"}
    ),
    "ClusterSecretStore": controlled("ClusterSecretStore", "foreign-e", ESO, namespaced=False, spec={}),
    "ClusterExternalSecret": controlled("ClusterExternalSecret", "foreign-f", ESO, namespaced=False, spec={}),
}


def place(name: str) -> str:
    """Returns the namespace of a row, which is also its host."""
    return f"foreign-{list(FOREIGN).index(name)}"


def of_row(everything: Objects, name: str) -> Objects:
    """Returns the objects in the namespace of a row, and its cluster-scoped object."""
    one, space = FOREIGN[name], place(name)
    unplaced = f"{one.kind}.{one.api_version.partition('/')[0]} {one.called(space)}"
    return {key: value for key, value in everything.items() if key == unplaced or key.partition(" ")[2].split("/")[0] == space}


@pytest.fixture(scope="module")
def chosen(request: pytest.FixtureRequest) -> list[str]:
    """Returns the rows of the selected tests."""
    mine = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    asked = {item.callspec.params["name"] for item in mine if hasattr(item, "callspec")}
    return [name for name in FOREIGN if name in asked]


@pytest.fixture(scope="module")
def before(chosen: list[str], cluster: Cluster) -> Iterator[Objects]:
    """The cluster with the objects of others, each in the namespace of its row."""
    needed = any(FOREIGN[name].variables.get("registry_cache_pull_secret_controller") == "external_secrets" for name in chosen)
    kinds = external_secrets.kinds(cluster) if needed else contextlib.nullcontext()
    with objects.namespaces(cluster, EMPTY, *map(place, chosen)), kinds:
        create(cluster, *(FOREIGN[name].manifest(place(name)) for name in chosen))
        yield objects.of_cluster(cluster)


def create(cluster: Cluster, *items: dict[str, Any]) -> None:
    cluster.kubectl("create", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(items)}))


@pytest.fixture(scope="module")
def hosts(chosen: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Arguments of ansible-playbook: a host for each row, which would install a cache in its namespace."""
    own = {
        place(name): {
            **SANDBOX_HOST,
            "registry_cache_namespace": place(name),
            "registry_cache_node_port": 30200 + number,
            "registry_cache_pull_secret_namespaces": [],
            **FOREIGN[name].variables,
        }
        for number, name in enumerate(chosen)
    }
    inventory = tmp_path_factory.mktemp("foreign") / "hosts.yml"
    inventory.write_text(json.dumps({"registry_cache_clusters": {"hosts": own}}))
    return "--inventory", str(inventory), "--limit", "foreign-*", "--forks", "4"


@dataclass(frozen=True)
class Ran:
    """The output of a run of site.yml, and all objects of the cluster after it."""

    output: str
    after: Objects

    def recap(self, name: str) -> str:
        """Returns the recap line of a row's host."""
        (line,) = re.findall(rf"(?m)^{place(name)} +: .*$", self.output.split("PLAY RECAP", 1)[1])
        return line

    def failure(self, name: str) -> str:
        return words("".join(re.findall(rf"(?m)^(?:fatal|failed): \[{place(name)}\].*$", self.output)))


@pytest.fixture(scope="module")
def refused(before: Objects, hosts: tuple[str, ...], site: Site, cluster: Cluster) -> Ran:
    """Runs site.yml in check mode, which changes nothing even if a check is missing."""
    return Ran(site(*hosts, "--tags", "preflight").stdout, objects.of_cluster(cluster))


@pytest.mark.parametrize("name", FOREIGN)
def test_an_object_of_somebody_else_is_refused(refused: Ran, before: Objects, name: str) -> None:
    line, said, one = refused.recap(name), refused.failure(name), FOREIGN[name]
    assert re.search(r"failed=1\b", line) and changed(line) == 0, line
    for part in (one.kind, one.called(place(name)), "Helm", one.variable):
        assert part in said, said
    assert of_row(refused.after, name) == of_row(before, name) != {}


@pytest.fixture(scope="module")
def uninstalled(refused: Ran, hosts: tuple[str, ...], site: Site, cluster: Cluster) -> Ran:
    """Runs the documented uninstall, without an installation."""
    absent = {f"registry_cache_{name}": "absent" for name in ("state", "wif_state", "pull_secret_state")}
    return Ran(site(*hosts, "--extra-vars", json.dumps(absent)).stdout, objects.of_cluster(cluster))


@pytest.mark.parametrize("name", FOREIGN)
def test_an_uninstall_keeps_it(uninstalled: Ran, before: Objects, name: str) -> None:
    line = uninstalled.recap(name)
    assert re.search(r"failed=0\b", line) and changed(line) == 0, line
    assert of_row(uninstalled.after, name) == of_row(before, name) != {}
