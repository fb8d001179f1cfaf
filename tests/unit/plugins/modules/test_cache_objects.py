# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules cache_objects_info, cache_objects_prune and cache_objects_adopt against an API server in this process."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import pull_secrets
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes import cache_objects
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner

from tests.module_runner import run
from tests.unit.plugins.kubernetes_api import ApiServer, Refusal

NAME = NAMESPACE = "registry-cache"
OURS = Owner(NAMESPACE, NAME).labels
HELM = {"app.kubernetes.io/managed-by": "Helm", "app.kubernetes.io/instance": NAME}
MONITORING = {"kind": "APIResourceList", "resources": [{"kind": "PodMonitor"}, {"kind": "PrometheusRule"}]}
# Every object that role cache writes: its plural in URLs, and its name.
OBJECTS = {
    "StatefulSet": ("statefulsets", NAME),
    "PodDisruptionBudget": ("poddisruptionbudgets", NAME),
    "Service": ("services", NAME),
    "Service for replicas": ("services", f"{NAME}-replicas"),
    "ConfigMap": ("configmaps", NAME),
    "ServiceAccount": ("serviceaccounts", NAME),
    "htpasswd": ("secrets", f"{NAME}-htpasswd"),
    "passwords": ("secrets", f"{NAME}-passwords"),
    "peers": ("secrets", f"{NAME}-peers"),
    "PodMonitor": ("podmonitors", NAME),
    "PrometheusRule": ("prometheusrules", NAME),
}
FOREIGN = {
    "of Helm": HELM,
    "without labels": {},
    "of another cache": Owner(NAMESPACE, "other").labels,
    "of a cache in another namespace": Owner("other", NAME).labels,
    "that names nobody's namespace": {label: value for label, value in OURS.items() if label != "registry-cache.pullthrough/namespace"},
}


@pytest.fixture
def server(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> ApiServer:
    monkeypatch.setattr(cache_objects, "_PAUSE", 0.01)
    server.namespace("kube-system")
    server.namespace(NAMESPACE)
    server.groups["/apis/monitoring.coreos.com/v1"] = MONITORING
    return server


def put(server: ApiServer, what: str, labels: dict[str, str], **fields: Any) -> dict[str, Any]:
    kind, name = OBJECTS[what]
    return server.add(kind, NAMESPACE, name, metadata={"labels": dict(labels)}, **{"spec": {}, **fields})


def call(server: ApiServer, module: str, **options: Any) -> dict[str, Any]:
    server.seen.clear()
    return run(module, host=server.url, api_key="cluster-token", **options)


def info(server: ApiServer, **options: Any) -> dict[str, Any]:
    before = copy.deepcopy(server.objects)
    result = call(server, "cache_objects_info", **options)
    assert server.objects == before and server.writes == [] and not result.get("changed")
    return result


def left(server: ApiServer) -> set[tuple[str, str]]:
    return {(kind, name) for kind, namespace, name in server.objects if namespace == NAMESPACE and name != "default"}


# cache_objects_info


def test_an_empty_cluster(server: ApiServer) -> None:
    del server.objects["namespaces", "", NAMESPACE]
    found = info(server, node_port=30026)
    uid = server.objects["namespaces", "", "kube-system"]["metadata"]["uid"]
    assert found["namespace"] == {"exists": False, "terminating": False, "created": False}
    assert found["cluster"] == uid and found["cache"] == f"{uid}/registry-cache/registry-cache"
    assert found["objects"] == found["foreign"] == found["node_port_services"] == found["missing_kinds"] == []
    assert found["stateful_set"] == {}


def test_objects_of_the_cache(server: ApiServer) -> None:
    for what in OBJECTS:
        put(server, what, OURS, data={"key": "of-a-secret"})
    found = info(server)
    assert len(found["objects"]) == len(OBJECTS) and found["foreign"] == []
    assert found["objects"][:3] == ["StatefulSet registry-cache", "PodDisruptionBudget registry-cache", "Service registry-cache"]
    assert found["stateful_set"]["metadata"]["name"] == NAME
    # The content of Secrets is not read.
    assert all("PartialObjectMetadata" in accept for _, path, _, accept in server.seen if "/secrets/" in path)


@pytest.mark.parametrize(
    ("whose", "words"),
    [
        ("of Helm", "managed by Helm for registry-cache"),
        ("without labels", "no label names its manager"),
        ("of another cache", "managed by pullthrough.registry_cache for registry-cache/other"),
        ("of a cache in another namespace", "managed by pullthrough.registry_cache for other/registry-cache"),
        ("that names nobody's namespace", "managed by pullthrough.registry_cache for registry-cache"),
    ],
)
def test_objects_of_others(server: ApiServer, whose: str, words: str) -> None:
    for what in OBJECTS:
        put(server, what, FOREIGN[whose])
    found = info(server)
    assert found["objects"] == [] and len(found["foreign"]) == len(OBJECTS)
    assert all(f"{name} ({words})" in said for (_, name), said in zip(OBJECTS.values(), found["foreign"], strict=True))


def test_services_with_the_port(server: ApiServer) -> None:
    put(server, "Service", OURS, spec={"ports": [{"port": 5000, "nodePort": 30026}]})
    server.namespace("demo")
    server.add("services", "demo", "squatter", spec={"ports": [{"port": 1}, {"port": 80, "nodePort": 30026}]})
    server.add("services", "demo", "other", spec={"ports": [{"port": 80, "nodePort": 30027}]})
    server.add("services", "demo", "external", spec={"type": "ExternalName"})
    assert info(server, node_port=30026)["node_port_services"] == ["demo/squatter", "registry-cache/registry-cache"]
    info(server)
    assert ("GET", "/api/v1/services") not in server.asked


def test_the_namespace(server: ApiServer) -> None:
    server.namespace(NAMESPACE, leaving=True)
    assert info(server)["namespace"] == {"exists": True, "terminating": True, "created": False}
    created = {"registry-cache.pullthrough/created": "true"}
    server.namespace(NAMESPACE, **created, **OURS)
    assert info(server)["namespace"] == {"exists": True, "terminating": False, "created": True}
    server.namespace(NAMESPACE, **created, **Owner(NAMESPACE, "other").labels)
    assert not info(server)["namespace"]["created"]


def test_the_prometheus_operator(server: ApiServer) -> None:
    assert info(server, monitors=True)["missing_kinds"] == []
    server.groups["/apis/monitoring.coreos.com/v1"] = {"resources": [{"kind": "PodMonitor"}]}
    assert info(server, monitors=True)["missing_kinds"] == ["PrometheusRule"]
    server.groups.clear()
    assert info(server, monitors=True)["missing_kinds"] == ["PodMonitor", "PrometheusRule"]
    assert info(server)["missing_kinds"] == []


def test_forbidden(server: ApiServer) -> None:
    def refuse(_method: str, path: str) -> None:
        if path == "/api/v1/services":
            raise Refusal(403, "services is forbidden")

    server.hook = refuse
    message = info(server, node_port=30026)["msg"]
    assert "HTTP 403: services is forbidden" in message and "Example: context: " in message
    assert "cluster" in info(server)


@pytest.mark.parametrize("module", ["cache_objects_info", "cache_objects_prune"])
@pytest.mark.parametrize("option", ["name", "namespace"])
def test_an_invalid_name(server: ApiServer, module: str, option: str) -> None:
    for value in ("", "../other", "a/b", "UPPER", "x" * 64):
        message = call(server, module, **{option: value})["msg"]
        assert message.startswith(f"{option}: ") and f"(got '{value}')" in message and f"Example: {option}: " in message
        assert server.asked == []


# cache_objects_prune


def prune(server: ApiServer, **options: Any) -> dict[str, Any]:
    """Check mode changes nothing and reports the same as a run. A second run changes nothing."""
    before = copy.deepcopy(server.objects)
    checked = call(server, "cache_objects_prune", check=True, **options)
    assert server.objects == before and not checked.get("failed"), checked
    applied = call(server, "cache_objects_prune", **options)
    assert {**applied, "invocation": 0} == {**checked, "invocation": 0}
    again = call(server, "cache_objects_prune", **options)
    assert not again["changed"] and again["removed"] == [] and server.writes == []
    return applied


def test_all_objects_of_the_cache_are_removed(server: ApiServer) -> None:
    for what in OBJECTS:
        put(server, what, OURS)
    result = prune(server)
    assert result["changed"] and len(result["removed"]) == len(OBJECTS) and left(server) == set()
    # Replicas are removed first, so that none loses its configuration.
    assert result["removed"][0] == "StatefulSet registry-cache" and "Secret registry-cache-peers\n" in result["diff"]["before"]


@pytest.mark.parametrize("whose", FOREIGN)
def test_objects_of_others_are_kept(server: ApiServer, whose: str) -> None:
    for what in OBJECTS:
        put(server, what, FOREIGN[whose])
    assert not prune(server, remove_namespace=True)["changed"]
    assert left(server) == set(OBJECTS.values()) and server.writes == []


def test_listed_objects_are_kept(server: ApiServer) -> None:
    for what in OBJECTS:
        put(server, what, OURS)
    # An older version created one for each replica.
    server.add("services", NAMESPACE, "registry-cache-0", metadata={"labels": {**OURS, "app.kubernetes.io/component": "peer"}})
    keep = [{"kind": what, "metadata": {"name": NAME}} for what in ("StatefulSet", "Service", "ConfigMap")]
    result = prune(server, keep=keep, keep_secrets=[f"{NAME}-htpasswd"])
    assert left(server) == {OBJECTS[what] for what in ("StatefulSet", "Service", "ConfigMap", "htpasswd")}
    assert "Service registry-cache-0" in result["removed"]


@pytest.mark.parametrize("wrong", [{}, {"kind": "Service"}, {"kind": "Service", "metadata": None}])
def test_listed_objects_need_a_name(server: ApiServer, wrong: dict[str, Any]) -> None:
    put(server, "ConfigMap", OURS)
    result = call(server, "cache_objects_prune", keep=[wrong])
    assert result["failed"] and result["msg"].startswith("keep: ") and "Example: keep: " in result["msg"] and server.writes == []


def test_pull_secrets_are_kept(server: ApiServer) -> None:
    """Role pull_secret removes them, and the objects for a controller."""
    server.add("secrets", NAMESPACE, "pull", metadata={"labels": dict(OURS)}, type=pull_secrets.TYPE)
    source = {**OURS, "app.kubernetes.io/component": "pull-secret-source"}
    for kind in ("secrets", "serviceaccounts"):
        server.add(kind, NAMESPACE, "source", metadata={"labels": dict(source)}, type="Opaque")
    assert not prune(server)["changed"] and len(left(server)) == 3


def test_a_cluster_without_the_operator(server: ApiServer) -> None:
    server.groups.clear()

    def unknown(_method: str, path: str) -> None:
        if "monitoring" in path:
            raise Refusal(404, "the server could not find the requested resource")

    server.hook = unknown
    put(server, "ConfigMap", OURS)
    assert prune(server)["removed"] == ["ConfigMap registry-cache"]


def test_an_object_that_was_replaced_is_kept(server: ApiServer) -> None:
    put(server, "ConfigMap", OURS)

    def other(method: str, _path: str) -> None:
        if method == "DELETE":
            put(server, "ConfigMap", HELM)

    server.hook = other
    call(server, "cache_objects_prune")
    assert left(server) == {("configmaps", NAME)}


# Its namespace

CREATED = {"registry-cache.pullthrough/created": "true", **OURS}


def test_a_namespace_that_was_created_for_the_cache(server: ApiServer) -> None:
    server.namespace(NAMESPACE, **CREATED)
    for what in OBJECTS:
        put(server, what, OURS)
    server.add("configmaps", NAMESPACE, "kube-root-ca.crt")
    server.add("secrets", NAMESPACE, "token", type="kubernetes.io/service-account-token")
    server.add("secrets", NAMESPACE, "pull", metadata={"labels": dict(OURS)}, type=pull_secrets.TYPE)
    server.add("secrets", NAMESPACE, "pull-of-b", metadata={"labels": Owner("b", NAME).labels}, type=pull_secrets.TYPE)
    claim = {"labels": Owner("name", "old").labels, "ownerReferences": [{"kind": "StatefulSet"}]}
    server.add("persistentvolumeclaims", NAMESPACE, "content-registry-cache-0", metadata=claim)
    assert prune(server, remove_namespace=True)["removed"][-1] == "Namespace registry-cache"
    assert ("namespaces", "", NAMESPACE) not in server.objects


@pytest.mark.parametrize("labels", [{}, OURS, {**CREATED, **Owner(NAMESPACE, "other").labels}])
def test_a_namespace_that_was_not_created_for_the_cache(server: ApiServer, labels: dict[str, str]) -> None:
    server.namespace(NAMESPACE, **labels)
    put(server, "ConfigMap", OURS)
    assert prune(server, remove_namespace=True)["removed"] == ["ConfigMap registry-cache"]
    assert ("namespaces", "", NAMESPACE) in server.objects


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("Deployment", {}),
        ("DaemonSet", HELM),
        ("StatefulSet", Owner(NAMESPACE, "other").labels),
        ("Service", {}),
        ("PersistentVolumeClaim", {}),
        ("ConfigMap", {}),
        ("Secret", {}),
    ],
)
def test_a_namespace_with_objects_of_others(server: ApiServer, kind: str, labels: dict[str, str]) -> None:
    server.namespace(NAMESPACE, **CREATED)
    put(server, "ConfigMap", OURS)
    plural = f"{kind.lower()}s"
    server.add(plural, NAMESPACE, "theirs", metadata={"labels": dict(labels)}, type="Opaque")
    result = prune(server, remove_namespace=True)
    assert result["removed"] == ["ConfigMap registry-cache"] and left(server) == {(plural, "theirs")}
    assert result["others"] == [f"{kind} theirs"]


def test_a_namespace_that_is_being_deleted(server: ApiServer) -> None:
    """The module waits if the namespace was created for the cache, and otherwise ignores it."""
    server.namespace(NAMESPACE, leaving=True)
    assert not prune(server, remove_namespace=True)["changed"]
    server.namespace(NAMESPACE, leaving=True, **CREATED)
    asked = 0

    def go(_method: str, path: str) -> None:
        nonlocal asked
        asked += path.endswith(f"/namespaces/{NAMESPACE}")
        if asked == 4:
            server.objects.pop(("namespaces", "", NAMESPACE), None)

    server.hook = go
    result = call(server, "cache_objects_prune", remove_namespace=True)
    assert not result["changed"] and asked == 4 and server.writes == []


def test_an_object_whose_removal_takes_too_long(server: ApiServer) -> None:
    put(server, "ConfigMap", OURS)

    def hold(method: str, _path: str) -> None:
        if method == "DELETE":
            raise Refusal(404, "as if a finalizer held it")

    server.hook = hold
    message = call(server, "cache_objects_prune", timeout=0)["msg"]
    assert "ConfigMap registry-cache still exists" in message and "kubectl get configmap registry-cache" in message


# cache_objects_adopt


def adopt(server: ApiServer, *objects: dict[str, str], **options: Any) -> dict[str, Any]:
    return call(server, "cache_objects_adopt", objects=list(objects), **options)


def test_adopt_objects(server: ApiServer) -> None:
    """They get labels, and nothing else changes. Check mode reports the same."""
    put(server, "Service", HELM, spec={"type": "ClusterIP"})
    put(server, "ConfigMap", HELM)
    put(server, "ServiceAccount", OURS)
    server.namespace("demo")
    server.add(
        "secrets", "demo", "registry-cache", metadata={"labels": {"team": "a"}, "creationTimestamp": "2026-01-01T00:00:00Z"}, data={}
    )
    named = [
        {"kind": "Service", "name": NAME},
        {"kind": "ServiceAccount", "name": NAME},
        {"kind": "Secret", "name": NAME, "namespace": "demo"},
    ]
    before = copy.deepcopy(server.objects)
    checked = adopt(server, *named, check=True)
    assert server.objects == before and server.writes == []
    applied = adopt(server, *named)
    assert {**applied, "invocation": 0} == {**checked, "invocation": 0} and applied["changed"]
    assert len(applied["objects"]) == 3 and len(applied["adopted"]) == 2
    assert applied["objects"][0].startswith("Service registry-cache/registry-cache (managed by Helm for registry-cache, created ")
    assert applied["objects"][2] == "Secret demo/registry-cache (no label names its manager, created 2026-01-01T00:00:00Z)"
    assert "Service registry-cache/registry-cache (of cache registry-cache/registry-cache)\n" in applied["diff"]["after"]
    for key, labels in ((("services", NAMESPACE, NAME), HELM), (("secrets", "demo", NAME), {"team": "a"})):
        assert server.objects[key]["metadata"].pop("labels") == {**labels, **OURS}
        del before[key]["metadata"]["labels"], before[key]["metadata"]["resourceVersion"]
        del server.objects[key]["metadata"]["resourceVersion"]
    assert server.objects == before


def test_a_service_of_another_name(server: ApiServer) -> None:
    """Where the cache has taken over a Service, that one counts."""
    put(server, "Service", HELM)
    server.add("services", NAMESPACE, "theirs", metadata={"labels": dict(HELM)}, spec={})
    assert info(server, service="theirs")["foreign"] == ["Service theirs (managed by Helm for registry-cache)"]
    adopt(server, {"kind": "Service", "name": "theirs"})
    assert info(server, service="theirs")["objects"] == ["Service theirs"]
    message = info(server, service="a/b")["msg"]
    assert message.startswith("service: ") and "Example: service: " in message


def test_the_cache_owns_adopted_objects(server: ApiServer) -> None:
    put(server, "Service", HELM)
    adopt(server, {"kind": "Service", "name": NAME})
    assert not adopt(server, {"kind": "Service", "name": NAME})["changed"] and server.writes == []
    assert info(server)["foreign"] == []
    assert prune(server)["removed"] == ["Service registry-cache"]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"kind": "ConfigMap", "name": "none"}, ("objects: ConfigMap registry-cache/none does not exist", "Example: objects: ")),
        ({"kind": "Deployment", "name": NAME}, ("objects: kind must be one of StatefulSet, ", "'Deployment'", "Example: kind: ")),
        ({"kind": "Service", "name": "../a"}, ("objects: name must be", "'../a'", "Example: name: ")),
        ({"kind": "Service", "name": "a", "namespace": "a/b"}, ("objects: namespace must be", "'a/b'", "Example: namespace: ")),
        (
            {"kind": "ConfigMap", "name": "theirs"},
            ("ConfigMap registry-cache/theirs (managed by", "belongs to another cache", "Example: objects: "),
        ),
    ],
)
def test_objects_that_cannot_be_adopted(server: ApiServer, named: dict[str, str], words: tuple[str, ...]) -> None:
    put(server, "Service", HELM)
    server.add("configmaps", NAMESPACE, "theirs", metadata={"labels": Owner(NAMESPACE, "other").labels})
    message = adopt(server, {"kind": "Service", "name": NAME}, named)["msg"]
    assert message.startswith("objects: ") and all(part in message for part in words), message
    assert server.writes == []


def test_no_answer(server: ApiServer) -> None:
    server.close()
    for module in ("cache_objects_info", "cache_objects_prune"):
        message = call(server, module)["msg"]
        assert "refused" in message and "KUBECONFIG" in message
