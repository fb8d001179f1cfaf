# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of all objects of the cluster and of the Google emulator, and their differences."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from sandbox.client import Cluster, Google
from sandbox.settings import LOCATION, PROJECT

from .replicas import wait

# The comparable part of each object by name. Of Secrets it has only hashes.
Objects = dict[str, dict[str, Any]]

OURS = "app.kubernetes.io/managed-by=pullthrough.registry_cache"
# Resources that the cluster writes all the time or derives from others.
_PASSING = {
    "certificatesigningrequests.certificates.k8s.io",
    "componentstatuses",
    "endpoints",
    "endpointslices.discovery.k8s.io",
    "events",
    "events.events.k8s.io",
    "ipaddresses.networking.k8s.io",
    "leasecandidates.coordination.k8s.io",
    "leases.coordination.k8s.io",
}
# kubeadm's tokens expire after a day, and its ConfigMap is signed with them.
_BOOTSTRAP = "bootstrap.kubernetes.io/token"
_CLUSTER_INFO = ("kube-public", "cluster-info")
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_READER = "roles/artifactregistry.reader"


def of_cluster(cluster: Cluster) -> Objects:
    """Returns all permanent objects of the cluster, of all resources that can be listed."""
    items = cluster.get(_resources(cluster), "--all-namespaces")["items"]
    return {named(item): summary(item) for item in items if _lasts(item)}


def ours(cluster: Cluster) -> Objects:
    """Returns all objects with this collection's label, and service accounts that use the pull secret of a cache."""
    marked = cluster.get(_resources(cluster), "--all-namespaces", "--selector", OURS)["items"]
    accounts = cluster.get("serviceaccounts", "--all-namespaces")["items"]
    attached = [item for item in accounts if {"name": "registry-cache"} in item.get("imagePullSecrets", [])]
    return {named(item): summary(item) for item in [*marked, *attached]}


def _resources(cluster: Cluster) -> str:
    """Returns all resources that can be listed, as an argument of `kubectl get`."""
    names = cluster.kubectl("api-resources", "--verbs=list", "--output=name").split()
    return ",".join(name for name in names if name not in _PASSING)


def named(item: dict[str, Any]) -> str:
    """Returns the kind, API group, namespace and name of an object."""
    group = item["apiVersion"].rpartition("/")[0]
    metadata = item["metadata"]
    kind = f"{item['kind']}.{group}" if group else item["kind"]
    return f"{kind} {'/'.join(filter(None, (metadata.get('namespace'), metadata['name'])))}"


def summary(item: dict[str, Any]) -> dict[str, Any]:
    """Returns an object without its status and without fields that change with every write."""
    metadata = item["metadata"]
    annotations = {name: value for name, value in metadata.get("annotations", {}).items() if name != _APPLIED}
    content = {name: value for name, value in item.items() if name not in ("apiVersion", "kind", "metadata", "status")}
    return {
        "uid": metadata["uid"],
        "labels": metadata.get("labels", {}),
        "annotations": annotations,
        "finalizers": metadata.get("finalizers", []),
        "content": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    }


def _lasts(item: dict[str, Any]) -> bool:
    """Returns whether an object is permanent: objects with an owner are removed with it."""
    metadata = item["metadata"]
    if metadata.get("ownerReferences") or item.get("type") == _BOOTSTRAP:
        return False
    return (metadata.get("namespace"), metadata["name"]) != _CLUSTER_INFO


def of_google(google: Google) -> Objects:
    """Returns the project's resources in the emulator: pools and providers (also deleted), each grant, and the state of APIs."""
    found: Objects = {}

    def policy(resource: str, answer: dict[str, Any]) -> None:
        for binding in answer.get("bindings", []):
            condition = binding.get("condition", {}).get("expression", "")
            for member in binding["members"]:
                found[f"grant {member} {binding['role']} {resource}"] = {"condition": condition}

    iam, registry = "iam.googleapis.com", "artifactregistry.googleapis.com"
    pools = f"/v1/projects/{PROJECT}/locations/global/workloadIdentityPools"
    listed = google.call("GET", iam, pools, showDeleted="true", pageSize="1000")
    for pool in _all(listed, "workloadIdentityPools"):
        found[f"pool {pool['name']}"] = _without(pool, "name", "expireTime")
        providers = google.call("GET", iam, f"/v1/{pool['name']}/providers", showDeleted="true", pageSize="100")
        for provider in _all(providers, "workloadIdentityPoolProviders"):
            found[f"provider {provider['name']}"] = _without(provider, "name", "expireTime")

    repositories = google.call("GET", registry, f"/v1/projects/{PROJECT}/locations/{LOCATION}/repositories", pageSize="1000")
    for repository in _all(repositories, "repositories"):
        found[f"repository {repository['name']}"] = _without(repository, "name", "updateTime")
        version = {"options.requestedPolicyVersion": "3"}
        policy(repository["name"], google.call("GET", registry, f"/v1/{repository['name']}:getIamPolicy", **version))

    for account in _all(google.call("GET", iam, f"/v1/projects/{PROJECT}/serviceAccounts", pageSize="100"), "accounts"):
        found[f"account {account['email']}"] = _without(account, "name", "etag")
        version = {"options.requestedPolicyVersion": "3"}
        policy(account["email"], google.call("POST", iam, f"/v1/{account['name']}:getIamPolicy", **version))

    asked = {"options": {"requestedPolicyVersion": 3}}
    host = "cloudresourcemanager.googleapis.com"
    policy(f"projects/{PROJECT}", google.call("POST", host, f"/v1/projects/{PROJECT}:getIamPolicy", asked))

    services = google.call("GET", "serviceusage.googleapis.com", f"/v1/projects/{PROJECT}/services", pageSize="200")
    for service in _all(services, "services"):
        found[f"api {service['config']['name']}"] = {"state": service["state"]}
    return found


def _all(answer: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Returns the items of an answer. Raises ValueError if there are more pages."""
    if "nextPageToken" in answer:
        raise ValueError(f"{key} has more than one page")
    return answer.get(key, [])


def _without(item: dict[str, Any], *fields: str) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in fields}


def stays(name: str, was: dict[str, Any] | None, now: dict[str, Any] | None) -> bool:
    """Returns whether docs/usage/uninstall.md says that this difference stays after an uninstall."""
    kind, _, rest = name.partition(" ")
    if kind in ("pool", "provider"):
        # Google keeps the name for 30 days.
        return now is not None and now["state"] == "DELETED" and (was is None or was["state"] == "DELETED")
    if kind == "api":
        return was == {"state": "DISABLED"} and now == {"state": "ENABLED"}
    if kind in ("repository", "account"):
        return was is None
    member, _, granted = rest.partition(" ")
    return kind == "grant" and was is None and member.startswith("serviceAccount:") and granted.startswith(f"{_READER} ")


def differences(before: Objects, after: Objects) -> list[str]:
    """Returns a line for each new, removed or changed object, except those that stay after an uninstall."""
    lines = []
    for name in sorted(before | after):
        was, now = before.get(name), after.get(name)
        if was == now or stays(name, was, now):
            continue
        if was is None:
            lines.append(f"new: {name}")
        elif now is None:
            lines.append(f"gone: {name}")
        else:
            changes = {key: (was.get(key), now.get(key)) for key in sorted(was | now) if was.get(key) != now.get(key)}
            lines.append(f"changed: {name}: {changes}")
    return lines


def left(read: Callable[[], Objects], before: Objects, seconds: float = 60) -> list[str]:
    """Returns the differences after the cluster's controllers had time to clean up."""
    deadline = time.monotonic() + seconds
    while (found := differences(before, read())) and time.monotonic() < deadline:
        time.sleep(2)
    return found


@contextlib.contextmanager
def namespaces(cluster: Cluster, *names: str) -> Iterator[None]:
    """Create namespaces for a block, and wait for the objects that the cluster puts there."""
    items = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names]
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))

    def filled(name: str) -> bool:
        found = cluster.get("serviceaccounts,configmaps", "--namespace", name)["items"]
        return {"default", "kube-root-ca.crt"} <= {item["metadata"]["name"] for item in found}

    try:
        for name in names:
            wait(lambda name=name: filled(name), 30, f"the objects of every namespace in {name}")
        yield
    finally:
        cluster.kubectl("delete", "namespace", *names, "--ignore-not-found")
