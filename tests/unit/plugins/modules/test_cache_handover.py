# SPDX-License-Identifier: GPL-3.0-or-later
"""Module cache_handover against an API server in this process: whose Service it takes, in which order, and what it refuses."""

from __future__ import annotations

import base64
import copy
from typing import Any

import bcrypt
import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes import handover
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner

from tests.module_runner import run
from tests.unit.plugins.kubernetes_api import ApiServer

NAMESPACE = CACHE = "registry-cache"
OURS = Owner(NAMESPACE, CACHE).labels
SELECTOR = {"app.kubernetes.io/name": "registry-cache", "app.kubernetes.io/instance": CACHE}
DEPLOYMENT, SERVICE, SECRET, CONFIG, ACCOUNT = "cncf-gar-proxy", "cncf-registry-service", "registry-htpasswd", "gar-config", "gar-proxy"
IMAGE = "docker.io/library/registry:3"
PASSWORD = "of-the-old-user"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
USERS = [{"name": "ci", "hash": HASH}]
REGISTRY = {
    "deployment": DEPLOYMENT,
    "image": IMAGE,
    "htpasswd_secret": SECRET,
    "objects": [
        {"kind": "Secret", "name": SECRET},
        {"kind": "ConfigMap", "name": CONFIG},
        {"kind": "ServiceAccount", "name": ACCOUNT},
    ],
}
KEYS = {
    "service": ("services", NAMESPACE, SERVICE),
    "deployment": ("deployments", NAMESPACE, DEPLOYMENT),
    "secret": ("secrets", NAMESPACE, SECRET),
    "config": ("configmaps", NAMESPACE, CONFIG),
    "account": ("serviceaccounts", NAMESPACE, ACCOUNT),
}


@pytest.fixture
def server(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> ApiServer:
    """The registry as a Pulumi program deploys it, and two ready replicas of the cache."""
    monkeypatch.setattr(handover, "_PAUSE", 0.01)
    server.namespace(NAMESPACE)
    labels = {"app": DEPLOYMENT}
    pod = {
        "serviceAccountName": ACCOUNT,
        "imagePullSecrets": [{"name": "image-pull"}],
        "containers": [{"name": "registry", "image": IMAGE, "env": [{"name": "A", "value": "b"}]}],
        "volumes": [
            {"name": "auth", "secret": {"secretName": SECRET}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": CONFIG}}]}},
            {"name": "store", "emptyDir": {}},
        ],
    }
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    port = {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 5000, "nodePort": 30026}
    service = {"type": "NodePort", "clusterIP": "10.0.0.9", "selector": labels, "ports": [port]}
    server.add("deployments", NAMESPACE, DEPLOYMENT, spec=copy.deepcopy(spec))
    server.add("services", NAMESPACE, SERVICE, spec=copy.deepcopy(service))
    server.add("secrets", NAMESPACE, SECRET, data={"htpasswd": base64.b64encode(f"ci:{HASH}\n".encode()).decode()})
    server.add("configmaps", NAMESPACE, CONFIG, data={})
    server.add("serviceaccounts", NAMESPACE, ACCOUNT)
    server.add("pods", NAMESPACE, "cncf-gar-proxy-1", metadata={"labels": labels})
    for number in range(2):
        ready(server, number)
    return server


def ready(server: ApiServer, number: int, status: str = "True") -> None:
    conditions = [{"type": "Ready", "status": status}]
    server.add("pods", NAMESPACE, f"{CACHE}-{number}", metadata={"labels": {**OURS, **SELECTOR}}, status={"conditions": conditions})


def call(server: ApiServer, *, check: bool = False, registry: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    server.seen.clear()
    given = {"namespace": NAMESPACE, "users": USERS, "service": SERVICE, "registry": {**REGISTRY, **(registry or {})}, **options}
    return run("cache_handover", check=check, host=server.url, api_key="cluster-token", **given)


def end_pods(server: ApiServer) -> None:
    """Let the Deployment's pods end when it is scaled to nothing, as its controller does."""

    def ended(method: str, path: str) -> None:
        if method == "GET" and path.endswith("/pods") and server.objects[KEYS["deployment"]]["spec"]["replicas"] == 0:
            server.objects.pop(("pods", NAMESPACE, "cncf-gar-proxy-1"), None)

    server.hook = ended


def test_the_service_becomes_the_caches_by_one_patch(server: ApiServer) -> None:
    before = copy.deepcopy(server.objects)
    result = server.story(lambda check: call(server, check=check))
    assert not result["handed_over"] and result["exists"] and result["temporary_node_port"] == 30027
    assert result["unnamed"] == []
    item = server.objects[KEYS["service"]]
    assert item["metadata"]["labels"] == OURS and item["metadata"]["uid"] == before[KEYS["service"]]["metadata"]["uid"]
    # The port keeps its name and its NodePort.
    port = {"name": "http", "protocol": "TCP", "port": 5000, "targetPort": "registry", "nodePort": 30026}
    policies = {"externalTrafficPolicy": "Cluster", "sessionAffinity": "None"}
    assert item["spec"] == {"type": "NodePort", "clusterIP": "10.0.0.9", "selector": SELECTOR, "ports": [port], **policies}
    del server.objects[KEYS["service"]], before[KEYS["service"]]
    assert server.objects == before


def test_one_write(server: ApiServer) -> None:
    assert call(server)["changed"]
    assert server.writes == [("PATCH", f"/api/v1/namespaces/{NAMESPACE}/services/{SERVICE}")]
    again = call(server)
    assert again["handed_over"] and not again["changed"] and "temporary_node_port" not in again and server.writes == []


@pytest.mark.parametrize("password", [True, False])
def test_a_password_is_as_good_as_its_hash(server: ApiServer, password: bool) -> None:
    result = call(server, users=[{"name": "ci", "password": PASSWORD if password else "another"}, {"name": "nodes"}])
    assert bool(result.get("changed")) is password
    if not password:
        assert result["msg"].startswith("users: ci of Secret registry-htpasswd") and "Example: users: " in result["msg"]
        assert HASH not in str(result) and server.writes == []


def test_nothing_is_removed_before_the_handover(server: ApiServer) -> None:
    message = call(server, step="remove")["msg"]
    assert message.startswith("step: ") and "Example: step: switch" in message and server.writes == []
    assert call(server, step="remove", check=True)["changed"] and server.writes == []


def test_the_registry_is_removed_with_what_is_named(server: ApiServer) -> None:
    call(server)
    end_pods(server)
    before = set(server.objects)
    result = call(server, step="remove")
    assert result["changed"] and result["exists"] and result["handed_over"]
    gone = {KEYS[name] for name in ("deployment", "secret", "config", "account")} | {("pods", NAMESPACE, "cncf-gar-proxy-1")}
    assert before - set(server.objects) == gone
    # The pods end first, and the Deployment goes last: it shows what belonged to it.
    paths = [path.rpartition("/")[2] for method, path in server.writes]
    assert server.writes[0][0] == "PATCH" and paths[0] == paths[-1] == DEPLOYMENT and set(paths[1:-1]) == {SECRET, CONFIG, ACCOUNT}
    again = call(server, step="remove")
    assert not again["changed"] and not again["exists"] and server.writes == []
    assert not call(server)["changed"]


def test_what_is_not_named_stays(server: ApiServer) -> None:
    call(server)
    end_pods(server)
    result = call(server, step="remove", registry={"objects": []})
    assert result["unnamed"] == [f"ConfigMap {CONFIG}", f"Secret {SECRET}", f"ServiceAccount {ACCOUNT}"]
    assert KEYS["secret"] in server.objects and KEYS["deployment"] not in server.objects


def test_pods_that_do_not_end(server: ApiServer) -> None:
    call(server)
    message = call(server, step="remove", timeout=0)["msg"]
    assert "Deployment cncf-gar-proxy" in message and "Example: kubectl describe deployment" in message
    assert set(KEYS.values()) <= set(server.objects)


def test_the_temporary_node_port(server: ApiServer) -> None:
    server.add("services", "demo", "near", spec={"ports": [{"port": 1, "nodePort": 30027}], "healthCheckNodePort": 30025})
    assert call(server, check=True)["temporary_node_port"] == 30028
    server.add("services", NAMESPACE, CACHE, metadata={"labels": OURS}, spec={"ports": [{"port": 1, "nodePort": 31000}]})
    assert call(server, check=True)["temporary_node_port"] == 31000


@pytest.mark.parametrize("state", ["none", "not ready"])
def test_replicas_that_are_not_ready(server: ApiServer, state: str) -> None:
    if state == "none":
        for number in range(2):
            del server.objects["pods", NAMESPACE, f"{CACHE}-{number}"]
    else:
        ready(server, 1, "False")
    assert call(server, check=True)["changed"]
    message = call(server)["msg"]
    assert message.startswith("name: ") and "Example: kubectl get pods" in message and server.writes == []


def spec(server: ApiServer, what: str) -> Any:
    return server.objects[KEYS[what]]["spec"]


def label(server: ApiServer, what: str) -> None:
    server.objects[KEYS[what]]["metadata"]["labels"] = {**OURS, "registry-cache.pullthrough/namespace": "other"}


def another_image(server: ApiServer) -> None:
    spec(server, "deployment")["template"]["spec"]["containers"][0]["image"] = "nginx:1"


def second_container(server: ApiServer) -> None:
    spec(server, "deployment")["template"]["spec"]["containers"].append({"name": "b", "image": IMAGE})


def cluster_ip(server: ApiServer) -> None:
    spec(server, "service")["type"] = "ClusterIP"


def second_port(server: ApiServer) -> None:
    spec(server, "service")["ports"].append({"port": 81})


def another_port(server: ApiServer) -> None:
    spec(server, "service")["ports"][0]["nodePort"] = 30099


def another_selector(server: ApiServer) -> None:
    spec(server, "service")["selector"] = {"app": "other"}


def no_selector(server: ApiServer) -> None:
    spec(server, "service")["selector"] = None


def no_service(server: ApiServer) -> None:
    del server.objects[KEYS["service"]]


def no_deployment(server: ApiServer) -> None:
    del server.objects[KEYS["deployment"]]


def unused(server: ApiServer) -> None:
    spec(server, "deployment")["template"]["spec"]["volumes"].pop(1)


def no_htpasswd(server: ApiServer) -> None:
    server.objects[KEYS["secret"]]["data"] = {"other": ""}


def two_of_one_name(server: ApiServer) -> None:
    server.objects[KEYS["secret"]]["data"]["htpasswd"] = base64.b64encode(f"ci:{HASH}\nci:{HASH}\n".encode()).decode()


# What is not as it is named, and the option and the object that the error names.
REFUSED: dict[str, tuple[Any, str, str]] = {
    "another image": (another_image, "registry.image", f"Deployment {DEPLOYMENT}"),
    "two containers": (second_container, "registry.image", f"Deployment {DEPLOYMENT}"),
    "no NodePort": (cluster_ip, "service", f"Service {SERVICE}"),
    "two ports": (second_port, "service", f"Service {SERVICE}"),
    "another port": (another_port, "node_port", "30099"),
    "another selector": (another_selector, "service", f"Deployment {DEPLOYMENT}"),
    "no selector": (no_selector, "service", f"Deployment {DEPLOYMENT}"),
    "no Service": (no_service, "service", f"Service {SERVICE}"),
    "no Deployment": (no_deployment, "registry.deployment", f"Deployment {DEPLOYMENT}"),
    "Service of a cache": (lambda server: label(server, "service"), "service", f"Service {SERVICE}"),
    "Deployment of a cache": (lambda server: label(server, "deployment"), "registry.deployment", f"Deployment {DEPLOYMENT}"),
    "ConfigMap of a cache": (lambda server: label(server, "config"), "registry.objects", f"ConfigMap {CONFIG}"),
    "unused ConfigMap": (unused, "registry.objects", f"ConfigMap {CONFIG}"),
    "no htpasswd": (no_htpasswd, "registry.htpasswd_key", f"Secret {SECRET}"),
    "a user twice": (two_of_one_name, "registry.htpasswd_key", f"Secret {SECRET}"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("check", [False, True])
def test_what_is_refused(server: ApiServer, what: str, check: bool) -> None:
    change, option, named = REFUSED[what]
    change(server)
    before = copy.deepcopy(server.objects)
    message = call(server, check=check)["msg"]
    assert message.startswith(f"{option}: ") and named in message and "Example: " in message, message
    assert server.objects == before and server.writes == []


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"service": "a/b"}, "service"),
        ({"registry": {"deployment": "../a"}}, "registry.deployment"),
        ({"registry": {"objects": [{"kind": "Secret", "name": "a/b"}]}}, "registry.objects"),
        ({"registry": {"htpasswd_secret": "other"}}, "registry.htpasswd_secret"),
        ({"registry": {"objects": [{"kind": "Secret", "name": "image-pull"}]}}, "registry.objects"),
    ],
)
def test_options_that_are_refused(server: ApiServer, options: dict[str, Any], option: str) -> None:
    server.add("secrets", NAMESPACE, "image-pull", data={})
    message = call(server, **options)["msg"]
    assert message.startswith(f"{option}: ") and "Example: " in message and server.writes == []


def test_objects_are_not_removed_without_the_deployment(server: ApiServer) -> None:
    call(server)
    del server.objects[KEYS["deployment"]]
    message = call(server, step="remove")["msg"]
    assert message.startswith("registry.objects: Secret") and "Example: kubectl delete" in message and server.writes == []


def test_everything_that_a_pod_may_use() -> None:
    source = [{"secret": {"name": "a"}}, {"configMap": {"name": "b"}}, {"serviceAccountToken": {}}]
    container = {
        "envFrom": [{"secretRef": {"name": "c"}}, {"configMapRef": {"name": "d"}}],
        "env": [{"valueFrom": {"secretKeyRef": {"name": "e"}}}, {"valueFrom": {"configMapKeyRef": {"name": "f"}}}, {"value": "g"}],
    }
    pod = {
        "serviceAccountName": "default",
        "volumes": [{"projected": {"sources": source}}, {"secret": {"secretName": "h"}}, {"configMap": {"name": "i"}}],
        "initContainers": [container],
        "containers": [{}],
    }
    secrets, maps = {("Secret", name) for name in "aceh"}, {("ConfigMap", name) for name in "bdfi"}
    assert handover.references(pod) == secrets | maps
