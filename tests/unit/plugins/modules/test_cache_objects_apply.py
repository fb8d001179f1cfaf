# SPDX-License-Identifier: GPL-3.0-or-later
"""Module cache_objects_apply against an API server in this process."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.module_runner import run
from tests.unit.plugins.kubernetes_api import ApiServer, Refusal, cut

pytestmark = pytest.mark.usefixtures("cache_namespace")


def item(kind: str, name: str = "cache", api_version: str = "v1", **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"app": "cache"}, **({} if kind == "Namespace" else {"namespace": "registry-cache"})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


OBJECTS = [
    item("ServiceAccount"),
    item("ConfigMap", data={"key": "value"}),
    item("StatefulSet", api_version="apps/v1", spec={"serviceName": "cache-replicas"}),
    item("PodDisruptionBudget", api_version="policy/v1", spec={"maxUnavailable": 1}),
]
NAMES = [f"{one['kind']} registry-cache/cache" for one in OBJECTS]


def apply(server: ApiServer, *objects: dict[str, Any], check: bool = False) -> dict[str, Any]:
    server.seen.clear()
    return run("cache_objects_apply", check=check, host=server.url, api_key="cluster-token", objects=list(objects))


def story(server: ApiServer, *objects: dict[str, Any]) -> dict[str, Any]:
    return server.story(functools.partial(apply, server, *objects), rewrites=True)


def test_create_all(server: ApiServer) -> None:
    result = story(server, *OBJECTS)
    assert result["applied"] == NAMES
    assert [one["after_header"] for one in result["diff"]] == NAMES and all(one["before"] == {} for one in result["diff"])
    assert server.objects["configmaps", "registry-cache", "cache"]["data"] == {"key": "value"}


def test_objects_are_applied_in_order(server: ApiServer) -> None:
    apply(server, *OBJECTS)
    kinds = [path.split("/")[-2] for _method, path in server.writes]
    assert kinds == ["serviceaccounts", "configmaps", "statefulsets", "poddisruptionbudgets"]


def test_the_diff_contains_only_changed_objects(server: ApiServer) -> None:
    apply(server, *OBJECTS)
    changed = item("ConfigMap", data={"key": "another"})
    result = story(server, OBJECTS[0], changed)
    (diff,) = result["diff"]
    assert result["applied"] == ["ConfigMap registry-cache/cache"]
    assert (diff["before"]["data"], diff["after"]["data"]) == ({"key": "value"}, {"key": "another"})
    assert not {"resourceVersion", "uid", "managedFields"} & diff["after"]["metadata"].keys()


def test_a_namespace(server: ApiServer) -> None:
    del server.objects["namespaces", "", "registry-cache"]
    assert story(server, item("Namespace", "registry-cache"))["applied"] == ["Namespace registry-cache"]


def test_an_object_that_is_refused(server: ApiServer) -> None:
    def refuse(method: str, path: str) -> None:
        if method == "PATCH" and "statefulsets" in path:
            raise Refusal(422, "spec: Forbidden: updates to statefulset spec")

    server.hook = refuse
    result = apply(server, *OBJECTS)
    assert result["failed"] and result["msg"].startswith("objects: StatefulSet registry-cache/cache was not applied (HTTP 422: spec")
    assert f"Applied before: {', '.join(NAMES[:2])}." in result["msg"]
    assert result["changed"] and result["applied"] == [one["after_header"] for one in result["diff"]] == NAMES[:2]
    for again in (apply(server, *OBJECTS), apply(server, *OBJECTS, check=True)):
        assert again["failed"] and "Applied before" not in again["msg"] and not again.get("changed") and "applied" not in again


def test_no_answer_between_two_objects(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, "patch", "statefulsets", ConnectionResetError("the connection was reset"))
    result = apply(server, *OBJECTS)
    assert result["failed"] and result["changed"] and result["applied"] == NAMES[:2]
    assert result["msg"].startswith(f"objects: {NAMES[2]} was not applied (")
    assert f"Applied before: {', '.join(NAMES[:2])}." in result["msg"]


@pytest.mark.parametrize(
    "wrong", [{}, {"kind": "Node", "metadata": {"name": "a"}}, item("Deployment"), item("Secret"), {"kind": "Service", "metadata": None}]
)
def test_invalid_objects(server: ApiServer, wrong: dict[str, Any]) -> None:
    result = apply(server, OBJECTS[0], wrong)
    assert result["failed"] and result["msg"].startswith("objects: ") and "Example: objects: " in result["msg"] and not server.writes


def test_no_answer(server: ApiServer) -> None:
    server.close()
    assert "KUBECONFIG" in apply(server, *OBJECTS)["msg"]
