# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/adopt.yml from its first check to its last removal, against an API server and the emulator of Google as processes.

tests/e2e/migration has the same on a cluster, with clients. Here the order of what is written shows.
"""

from __future__ import annotations

import copy
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner

from sandbox.settings import ROOT
from tests.e2e.site.test_site import changed
from tests.unit.plugins.kubernetes_api import ApiServer, Refusal
from tests.unit.sandbox.google.harness import Keys

from .test_wif import Google, cluster

IAM = "iam.googleapis.com"
NAMESPACE, DEPLOYMENT, SERVICE = "registry-cache", "cncf-gar-proxy", "cncf-registry-service"
IMAGE = "docker.io/library/registry:3"
EMAIL = "registry-cache-reader@demo-project.iam.gserviceaccount.com"
POOLS = "projects/42/locations/global/workloadIdentityPools"
POOL = f"{POOLS}/registry-cache-pool"
OLD_PROVIDER, NEW_PROVIDER, ELSEWHERE = "registry-cache-k8s-provider", "k8s-east", "elsewhere"
MEMBER = f"principal://iam.googleapis.com/{POOL}/subject/system:serviceaccount:{NAMESPACE}:gar-proxy"
OWNER = Owner(NAMESPACE, "registry-cache")
SELECTOR = {"app.kubernetes.io/name": "registry-cache", "app.kubernetes.io/instance": "registry-cache"}
_VERBS = ["get", "list", "patch"]
_APPS = [
    {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": _VERBS}
    for name, kind in (("statefulsets", "StatefulSet"), ("statefulsets/scale", "Scale"))
]
# What is named wrongly at Google, and the variable that the error names.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pool": ({"registry_cache_adopt_google": {"pool": "other-pool"}}, "registry_cache_adopt_google.pool must be"),
    "no-pool": (
        {"registry_cache_wif_pool": "no-such-pool", "registry_cache_adopt_google": {"pool": "no-such-pool"}},
        "registry_cache_adopt_google.pool: project demo-project has no active pool",
    ),
    "provider": ({"registry_cache_adopt_google": {"provider": NEW_PROVIDER}}, "registry_cache_wif_provider: "),
    "issuer": ({"registry_cache_adopt_google": {"provider": ELSEWHERE}}, "registry_cache_adopt_google.provider: "),
    "account": (
        {"registry_cache_wif_service_account": "", "registry_cache_adopt_google": {"members": [MEMBER]}},
        "registry_cache_adopt_google.members: these",
    ),
    "member": (
        {"registry_cache_adopt_google": {"members": [MEMBER.replace("registry-cache-pool", "other")]}},
        "registry_cache_adopt_google.members: principal",
    ),
    "own": (
        {"registry_cache_adopt_google": {"members": [MEMBER.replace("system:", f"{NEW_PROVIDER}:system:")]}},
        "registry_cache_adopt_google.members: principal",
    ),
}
_GROUP = {"groupVersion": "apps/v1", "version": "v1"}
DISCOVERY = {
    "/apis": {"kind": "APIGroupList", "groups": [{"name": "apps", "versions": [_GROUP], "preferredVersion": _GROUP}]},
    "/apis/apps/v1": {"kind": "APIResourceList", "groupVersion": "apps/v1", "resources": _APPS},
}


class Server(ApiServer):
    """With what controllers do: replicas become ready, pods of a Deployment without replicas end, and fields of others stay."""

    def handle(self, method: str, url: str, body: Any, headers: Any) -> Any:
        path = urlsplit(url).path
        if path in DISCOVERY:
            return DISCOVERY[path]
        kind, name, *_ = [*path.split("/")[-2:], ""]
        if name == "scale":
            found = self.objects["statefulsets", NAMESPACE, kind]
            found["spec"]["replicas"] = body["spec"]["replicas"]
            return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": found["metadata"], "spec": body["spec"]}
        headers = dict(headers.items())
        if headers.get("Content-Type") == "application/strategic-merge-patch+json":
            headers["Content-Type"] = "application/merge-patch+json"
        if headers.get("Content-Type") == "application/apply-patch+yaml" and (kind, NAMESPACE, name) in self.objects:
            body = merged(self.objects[kind, NAMESPACE, name], body)
        headers.setdefault("Authorization", None)
        answer = super().handle(method, url, body, headers)
        if kind == "statefulsets" and method == "PATCH" and "dryRun" not in url:
            self._settle(name)
        if kind == "deployments" and method == "PATCH" and answer["spec"]["replicas"] == 0:
            del self.objects["pods", NAMESPACE, f"{DEPLOYMENT}-1"]
        return answer

    def _settle(self, name: str) -> None:
        found = self.objects["statefulsets", NAMESPACE, name]
        found.update(apiVersion="apps/v1", kind="StatefulSet")
        count = found["spec"].setdefault("replicas", 1)
        found["metadata"]["generation"] = 1
        found["status"] = {"observedGeneration": 1, "readyReplicas": count, "updatedReplicas": count}
        for number in range(count):
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            self.add("pods", NAMESPACE, f"{name}-{number}", metadata={"labels": dict(SELECTOR)}, status=ready)


def merged(found: Any, given: Any, key: str = "") -> Any:
    """Server-side apply where others own fields too; a selector is replaced as a whole."""
    if key == "ports" and len(found) == len(given) == 1:
        return [{**found[0], **given[0]}]
    if key == "selector" or not (isinstance(found, dict) and isinstance(given, dict)):
        return given
    return {**found, **{name: merged(found[name], value, name) if name in found else value for name, value in given.items()}}


@dataclass
class Story:
    """The runs of the playbook, and what there is afterwards."""

    server: Server
    google: Google
    before: dict[Any, Any]
    untouched: bool
    runs: dict[str, str]
    # Methods and paths of what the run that is cut off and the next one wrote.
    writes: list[tuple[str, str]]


def deploy(server: Server) -> None:
    """What the Pulumi program makes."""
    labels = {"app": DEPLOYMENT}
    server.namespace(NAMESPACE)
    port = {"protocol": "TCP", "port": 5000, "targetPort": 5000, "nodePort": 30026}
    server.add("services", NAMESPACE, SERVICE, kind="Service", spec={"type": "NodePort", "selector": dict(labels), "ports": [port]})
    pod = {
        "serviceAccountName": "gar-proxy",
        "containers": [{"name": "registry", "image": IMAGE}],
        "volumes": [{"name": "config", "configMap": {"name": "gar-config"}}],
    }
    template = {"metadata": {"labels": dict(labels)}, "spec": pod}
    server.add("deployments", NAMESPACE, DEPLOYMENT, spec={"replicas": 1, "selector": {"matchLabels": labels}, "template": template})
    server.add("pods", NAMESPACE, f"{DEPLOYMENT}-1", metadata={"labels": dict(labels)})
    server.add("configmaps", NAMESPACE, "gar-config", data={})
    server.add("serviceaccounts", NAMESPACE, "gar-proxy")


def deploy_google(google: Google) -> None:
    repositories = "projects/demo-project/locations/us/repositories"
    google.make("artifactregistry.googleapis.com", repositories, "repositoryId", "private", format="DOCKER")
    google.make(IAM, POOLS, "workloadIdentityPoolId", "registry-cache-pool", description="Pool of registry caches")
    provider = {"attributeMapping": {"google.subject": "assertion.sub"}, "oidc": {"issuerUri": "https://uid-east.example.com"}}
    google.make(IAM, f"{POOL}/providers", "workloadIdentityPoolProviderId", OLD_PROVIDER, **provider)
    provider["oidc"] = {"issuerUri": "https://elsewhere.example.com"}
    google.make(IAM, f"{POOL}/providers", "workloadIdentityPoolProviderId", ELSEWHERE, **provider)
    google.post(IAM, "projects/demo-project/serviceAccounts", {"accountId": EMAIL.split("@")[0]})
    binding = {"role": "roles/iam.workloadIdentityUser", "members": [MEMBER]}
    google.post(IAM, f"projects/demo-project/serviceAccounts/{EMAIL}:setIamPolicy", {"policy": {"bindings": [binding]}})


def cut_off(method: str, path: str) -> None:
    """Refuse to end the registry."""
    if method == "PATCH" and path.endswith(f"/deployments/{DEPLOYMENT}"):
        raise Refusal(500, "as if the run was cut off")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The playbook by check, then cut off after the handover, then whole, then once more."""
    folder = tmp_path_factory.mktemp("adopt")
    server, google = Server(), Google(folder)
    try:
        known = cluster("uid-east", Keys().jwks())
        known.close()
        server.plain = known.plain
        server.namespace("kube-system")
        server.objects["namespaces", "", "kube-system"]["metadata"]["uid"] = "uid-east"
        deploy(server)
        deploy_google(google)
        host = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "registry_cache_wif_project": "demo-project",
            "registry_cache_wif_enable_apis": False,
            "registry_cache_wif_pool": "registry-cache-pool",
            "registry_cache_wif_provider": NEW_PROVIDER,
            "registry_cache_wif_service_account": EMAIL,
            "registry_cache_gcp_auth_kind": "accesstoken",
            "registry_cache_gcp_access_token": google.token,
            "registry_cache_upstreams": [{"host": "us-docker.pkg.dev", "repositories": ["demo-project/private"]}],
            "registry_cache_auth": "none",
            "registry_cache_auth_none_confirmed": True,
            "registry_cache_image_mode": "stock",
            "registry_cache_image_helper": "helper.example/i:1",
            "registry_cache_drain_seconds": 1,
            "registry_cache_service_name": SERVICE,
            "registry_cache_adopt_registry": {
                "deployment": DEPLOYMENT,
                "image": IMAGE,
                "objects": [{"kind": "ConfigMap", "name": "gar-config"}, {"kind": "ServiceAccount", "name": "gar-proxy"}],
            },
            "registry_cache_adopt_google": {"pool": "registry-cache-pool", "provider": OLD_PROVIDER, "members": [MEMBER]},
        }
        (folder / "hosts.json").write_text(json.dumps({"registry_cache_clusters": {"hosts": {"east": host}}}))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "GC", "K8S_", "KUBE"))}
        environment |= {
            "ANSIBLE_NOCOLOR": "1",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "K8S_AUTH_HOST": server.url,
            "K8S_AUTH_API_KEY": "cluster-token",
            "HTTPS_PROXY": f"http://127.0.0.1:{google.proxy}",
            "REQUESTS_CA_BUNDLE": str(google.state / "ca.pem"),
            "NO_PROXY": "127.0.0.1",
        }

        def play(*arguments: str, playbook: str = "playbooks/adopt.yml", hosts: str = "hosts.json") -> str:
            server.seen.clear()
            command = [str(pathlib.Path(sys.prefix) / "bin" / "ansible-playbook"), "--inventory", str(folder / hosts), playbook]
            done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            return done.stdout + done.stderr

        before = copy.deepcopy(server.objects)
        cases = {name: {**host, **wrong} for name, (wrong, _said) in REFUSED.items()}
        (folder / "cases.json").write_text(json.dumps({"registry_cache_clusters": {"hosts": cases}}))
        roles = [
            {"ansible.builtin.include_role": {"name": "pullthrough.registry_cache.wif", "tasks_from": tasks}}
            for tasks in ("preflight", "adopt_preflight")
        ]
        (folder / "cases.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": roles}]))
        environment["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / "playbooks" / "collections")
        runs = {
            "refused": play(playbook=str(folder / "cases.yml"), hosts="cases.json"),
            "extra": play("--extra-vars", "registry_cache_node_port=30026"),
            "check": play("--check", "--diff"),
        }
        untouched = server.objects == before
        server.hook = cut_off
        runs["cut off"] = play()
        writes, server.hook = list(server.writes), lambda _method, _path: None
        runs["whole"] = play()
        writes += server.writes
        runs["again"] = play()
        yield Story(server, google, before, untouched, runs, writes)
    finally:
        google.close()
        server.close()


def test_check_mode_shows_all_and_changes_nothing(story: Story) -> None:
    said = story.runs["check"]
    assert "failed=0" in said and changed(said) > 0, said
    for named in (f"Service {SERVICE}", f"Deployment {DEPLOYMENT}", "ConfigMap gar-config", "ServiceAccount gar-proxy"):
        assert named in said, said
    assert story.untouched


def test_a_node_port_of_extra_vars_is_refused(story: Story) -> None:
    """It would have precedence over the one that the cache has until the handover."""
    said = story.runs["extra"]
    assert "failed=1" in said and changed(said) == 0, said
    assert "registry_cache_node_port and registry_cache_service_name must be set in the inventory" in said and "Example: " in said


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_named_wrongly_at_google_is_refused(story: Story, case: str) -> None:
    said = story.runs["refused"]
    assert re.search(rf"(?m)^{case} .*changed=0 .*failed=1", said), said
    (message,) = re.findall(rf"(?m)^fatal: \[{case}\].*?\"msg\": \"(.*?)\"\}}", said.replace("\n    ", " "), re.DOTALL)
    assert REFUSED[case][1] in message and "Example: " in message, message


def test_the_service_is_the_caches(story: Story) -> None:
    assert "failed=0" in story.runs["whole"], story.runs["whole"]
    key = ("services", NAMESPACE, SERVICE)
    item = story.server.objects[key]
    assert item["metadata"]["uid"] == story.before[key]["metadata"]["uid"] and OWNER.owns(item["metadata"])
    (port,) = item["spec"]["ports"]
    assert item["spec"]["selector"] == SELECTOR and (port["nodePort"], port["targetPort"]) == (30026, "registry")


def test_it_leads_to_the_cache_only_once_the_replicas_are_ready(story: Story) -> None:
    """The cache has another Service until then, which is removed; the registry goes last."""
    order = [
        ("PATCH", f"/api/v1/namespaces/{NAMESPACE}/services/registry-cache"),
        ("PATCH", f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/registry-cache"),
        ("PATCH", f"/api/v1/namespaces/{NAMESPACE}/services/{SERVICE}"),
        ("DELETE", f"/api/v1/namespaces/{NAMESPACE}/services/registry-cache"),
        ("PATCH", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{DEPLOYMENT}"),
        ("DELETE", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{DEPLOYMENT}"),
    ]
    places = [story.writes.index(request) for request in order]
    assert places == sorted(places), story.writes


def test_a_run_that_is_cut_off_is_resumed(story: Story) -> None:
    assert "failed=1" in story.runs["cut off"] and "as if the run was cut off" in story.runs["cut off"], story.runs["cut off"]
    said = story.runs["whole"]
    assert "failed=0" in said and "leads to the cache" in said, said
    # The Service that the cache had beside the registry is not made again.
    assert story.writes.count(("PATCH", f"/api/v1/namespaces/{NAMESPACE}/services/registry-cache")) == 1


def test_only_objects_of_the_cache_are_left(story: Story) -> None:
    left = {
        key: item for key, item in story.server.objects.items() if key[1] == NAMESPACE and key[0] != "pods" and key[2] != "default"
    }
    assert left and [key for key, item in left.items() if not OWNER.owns(item["metadata"])] == []
    assert ("services", NAMESPACE, "registry-cache") not in left
    assert not [key for key in story.server.objects if key[2].startswith(DEPLOYMENT)]


def test_google_has_the_providers_of_the_cache_and_of_others(story: Story) -> None:
    google = story.google
    assert google.get(IAM, POOL)["description"] == "Made by pullthrough.registry_cache"
    listed = google.get(IAM, f"{POOL}/providers")["workloadIdentityPoolProviders"]
    assert {item["name"].rpartition("/")[2] for item in listed} == {NEW_PROVIDER, ELSEWHERE}
    policy = google.post(IAM, f"projects/demo-project/serviceAccounts/{EMAIL}:getIamPolicy", {})
    members = [member for binding in policy["bindings"] for member in binding["members"]]
    assert members == [f"principal://iam.googleapis.com/{POOL}/subject/{NEW_PROVIDER}:system:serviceaccount:{NAMESPACE}:registry-cache"]


def test_a_second_run_changes_nothing(story: Story) -> None:
    said = story.runs["again"]
    assert "failed=0" in said and re.search(r"changed=0\b", said), said
