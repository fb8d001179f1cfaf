# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects that external-secrets reads."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import external_secrets
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials.pull_secrets import PullSecretError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner

PASSWORD = "the-cache-password"


def secret(user: str = "nodes", **options: Any) -> dict[str, Any]:
    where = options or {"exclude_namespaces": ["kube-system", "registry-cache"]}
    credential = {"user": user, "username": f"{user}.g1", "password": PASSWORD}
    made = {"labels": {"team": "a"}, "annotations": {}, "service_accounts": []}
    return {"name": "pull", "hosts": ["localhost:30026"], **credential, **made, **where}


def objects(of: dict[str, Any]) -> list[dict[str, Any]]:
    return external_secrets.objects(of, Owner("registry-cache", "cache"))


def test_the_chain_of_external_secrets() -> None:
    made = objects(secret())
    assert [item["kind"] for item in made] == [
        "Secret",
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "ClusterSecretStore",
        "ClusterExternalSecret",
    ]
    assert {item["metadata"]["name"] for item in made[:4]} == {"cache-pull-nodes"}
    # A cache in another namespace may have the same name.
    assert {item["metadata"]["name"] for item in made[4:]} == {"cache-pull-nodes.registry-cache"}
    assert {item["metadata"].get("namespace") for item in made[:4]} == {"registry-cache"}
    assert {item["metadata"].get("namespace") for item in made[4:]} == {None}
    source, _account, role, binding, store, external = made
    (key, text), *_none = source["data"].items()
    entry = json.loads(base64.b64decode(text))["auths"]["localhost:30026"]
    assert (entry["username"], entry["password"]) == ("nodes.g1", PASSWORD)

    # Only this one Secret, and only for the namespaces that have it.
    assert role["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["cache-pull-nodes"], "verbs": ["get"]}]
    assert binding["subjects"][0]["name"] == binding["roleRef"]["name"] == "cache-pull-nodes"
    provider = store["spec"]["provider"]["kubernetes"]
    assert provider["auth"]["serviceAccount"] == {"name": "cache-pull-nodes", "namespace": "registry-cache"}
    where = {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "registry-cache"]}]}
    assert store["spec"]["conditions"] == [{"namespaceSelector": where}] and external["spec"]["namespaceSelectors"] == [where]

    spec = external["spec"]["externalSecretSpec"]
    assert spec["secretStoreRef"] == {"kind": "ClusterSecretStore", "name": store["metadata"]["name"]}
    assert spec["data"] == [{"secretKey": ".dockerconfigjson", "remoteRef": {"key": "cache-pull-nodes", "property": key}}]
    target = spec["target"]
    assert (target["name"], target["creationPolicy"], target["template"]["type"]) == ("pull", "Orphan", "kubernetes.io/dockerconfigjson")
    # The same labels as those of module pull_secrets.
    labels = target["template"]["metadata"]["labels"]
    assert (labels["app.kubernetes.io/managed-by"], labels["app.kubernetes.io/instance"]) == ("pullthrough.registry_cache", "cache")
    assert (labels["registry-cache.pullthrough/namespace"], labels["team"]) == ("registry-cache", "a")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"namespaces": ["b", "a"]}, [("kubernetes.io/metadata.name", "In", ["a", "b"])]),
        ({"exclude_namespaces": []}, None),
        ({"namespace_selector": "team=a"}, [("team", "In", ["a"])]),
        ({"namespace_selector": "team==a"}, [("team", "In", ["a"])]),
        ({"namespace_selector": "team!=a"}, [("team", "NotIn", ["a"])]),
        (
            {"namespace_selector": "x/team in (b, a),!off , on"},
            [("x/team", "In", ["a", "b"]), ("off", "DoesNotExist", None), ("on", "Exists", None)],
        ),
        ({"namespace_selector": "in notin (in),team="}, [("in", "NotIn", ["in"]), ("team", "In", [""])]),
    ],
)
def test_namespaces(where: dict[str, Any], expected: list[tuple[str, str, Any]] | None) -> None:
    (made,) = objects(secret(**where))[-1]["spec"]["namespaceSelectors"]
    found = [(item["key"], item["operator"], item.get("values")) for item in made.get("matchExpressions", [])]
    assert found == (expected or []) and (expected or made == {})


@pytest.mark.parametrize("text", ["team in a", "team in (a", "a=b c", "team>3", "=a", "a=b,,c", "a,b)"])
def test_an_invalid_selector(text: str) -> None:
    with pytest.raises(PullSecretError, match=r"^namespace_selector: .* Example: namespace_selector: team in \(a, b\)"):
        objects(secret(namespace_selector=text))


def test_long_cluster_scoped_names_differ() -> None:
    owners = [Owner("s" * 62 + end, "n" * 52) for end in "ab"]
    made = [one for owner in owners for one in external_secrets.objects(secret("x" * 60), owner)]
    names = [item["metadata"]["name"] for item in made if "namespace" not in item["metadata"]]
    assert len(set(names)) == 2 and all(len(name) <= 63 for name in names)


def test_users_have_separate_objects() -> None:
    users = ["nodes", "Team A", "team-a", "é", "x" * 60, "nodes@example.com"]
    names = [objects(secret(user))[0]["metadata"]["name"] for user in users]
    assert len(set(names)) == len(users) and names[2] == "cache-pull-team-a"
    assert all(re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", name) and len(name) <= 63 for name in names)
