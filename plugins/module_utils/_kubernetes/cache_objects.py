# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects of a cache in its cluster: which exist, who owns them, and which to remove.

Private to this collection. An object belongs to a cache if its labels name this collection, the cache and the cache's namespace.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
import typing as t

from .._credentials import pull_secrets
from .client import IDENTITY_PATH, PATCH, Client
from .errors import ClusterError, ConflictError, NotFoundError, some
from .owner import COMPONENT, INSTANCE, MANAGED_BY, OWNER_NAMESPACE, Owner

# Set on a namespace that role cache has created.
CREATED = "registry-cache.pullthrough/created"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_MONITORING = "/apis/monitoring.coreos.com/v1"
# Kinds that role cache writes, with their APIs and plurals, in the order in which they are removed.
_KINDS = {
    "StatefulSet": ("/apis/apps/v1", "statefulsets"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "Service": ("/api/v1", "services"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "Secret": ("/api/v1", "secrets"),
    "PodMonitor": (_MONITORING, "podmonitors"),
    "PrometheusRule": (_MONITORING, "prometheusrules"),
}
_OBJECTS = (
    ("StatefulSet", ""),
    ("PodDisruptionBudget", ""),
    ("Service", ""),
    ("Service", "-replicas"),
    ("ConfigMap", ""),
    ("ServiceAccount", ""),
    ("Secret", "-htpasswd"),
    ("Secret", "-passwords"),
    ("Secret", "-peers"),
    ("PodMonitor", ""),
    ("PrometheusRule", ""),
)
# Role pull_secret manages these objects, also in the namespace of the cache.
_NOT_PULL_SECRETS = f"{COMPONENT}!={pull_secrets.SOURCE}"
# Other objects that prevent the removal of a namespace. A cluster creates the ConfigMaps and Secrets below in every namespace.
_OTHERS = {
    "Deployment": ("/apis/apps/v1", "deployments"),
    "DaemonSet": ("/apis/apps/v1", "daemonsets"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    **{kind: _KINDS[kind] for kind in ("StatefulSet", "Service", "ConfigMap", "Secret")},
}
_FROM_CLUSTER = {"kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert"}
_NOT_FROM_CLUSTER = "type!=kubernetes.io/service-account-token,type!=kubernetes.io/dockercfg"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# Names of any object. Some kinds allow dots.
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_PAUSE = 1

Item = t.Dict[str, t.Any]


class ObjectsError(ClusterError):
    """Something that cannot be done. The text is a message for the user."""


def cache_of(params: dict[str, t.Any]) -> Owner:
    """Return the cache that options C(namespace) and C(name) of a module name. Raise ObjectsError for invalid names."""
    owner = Owner(params["namespace"], params["name"])
    check(owner)
    return owner


def check(owner: Owner) -> None:
    """Raise ObjectsError for names that no object can have. The names become a part of URLs."""
    for option, value in zip(("namespace", "name"), owner):
        if not _NAME.fullmatch(value):
            raise ObjectsError(
                f"{option}: must have 1 to 63 characters (a-z, 0-9, '-'), and must not begin or end with '-' (got '{value}')."
                f" Example: {option}: registry-cache"
            )


def owns(owner: Owner, item: Item) -> bool:
    return owner.owns(item["metadata"])


def describe(item: Item) -> str:
    """Return who manages an object according to its labels."""
    labels = item["metadata"].get("labels") or {}
    manager = labels.get(MANAGED_BY)
    if not manager:
        return "no label names its manager"
    owner = [labels[label] for label in (OWNER_NAMESPACE, INSTANCE) if label in labels]
    return f"managed by {manager}" + (f" for {'/'.join(owner)}" if owner else "")


def path_of(kind: str, namespace: str, name: str) -> str:
    group, plural = _KINDS[kind]
    return f"{group}/namespaces/{namespace}/{plural}/{name}"


def _list(api: Client, kind: str, namespace: str, **selectors: str) -> list[Item]:
    """Return the metadata of the objects of a kind in a namespace; none if the cluster does not have the kind. Raise ClusterError."""
    group, plural = {**_OTHERS, **_KINDS}[kind]
    try:
        return api.list_all(plural, metadata_only=True, namespace=namespace, group=group, **selectors)
    except NotFoundError:
        return []


def info(api: Client, owner: Owner, node_port: int | None, monitors: bool, service: str | None = None) -> dict[str, t.Any]:
    """Return the result of module cache_objects_info: what exists of a cache, and what conflicts with it. Raise ClusterError.

    :param node_port: NodePort for which to find Services. With None, no Services of other namespaces are read.
    :param monitors: whether to check for the kinds of the Prometheus operator.
    :param service: name of the Service with the NodePort, if it is not the name of the cache.
    """
    if service and not _OBJECT_NAME.fullmatch(service):
        raise ObjectsError(f"service: '{service}' must be the name of a Service. Example: service: cncf-registry-service")
    names = {("Service", ""): service or owner.name}
    paths = [(kind, path_of(kind, owner.namespace, names.get((kind, suffix), owner.name + suffix))) for kind, suffix in _OBJECTS]
    tasks: list[t.Callable[[], t.Any]] = [
        lambda: api.get(IDENTITY_PATH, _METADATA),
        lambda: api.get(f"/api/v1/namespaces/{owner.namespace}", _METADATA),
        lambda: api.get(_MONITORING) if monitors else None,
        lambda: api.list_all("services") if node_port is not None else [],
    ]
    # Never read the content of a Secret. The StatefulSet is read completely, because its volumes matter.
    tasks += [functools.partial(api.get, path, "application/json" if kind == "StatefulSet" else _METADATA) for kind, path in paths]
    system, namespace, monitoring, services, *objects = api.each(tasks)
    found = [(f"{kind} {path.rpartition('/')[2]}", item) for (kind, path), item in zip(paths, objects) if item]
    cluster = system["metadata"]["uid"] if system else ""
    known = {resource["kind"] for resource in (monitoring or {}).get("resources", ())}
    return {
        "cluster": cluster,
        "cache": f"{cluster}/{owner.namespace}/{owner.name}",
        "namespace": {
            "exists": namespace is not None,
            "terminating": namespace is not None and "deletionTimestamp" in namespace["metadata"],
            "created": namespace is not None and _created(owner, namespace),
        },
        "objects": [name for name, item in found if owns(owner, item)],
        "foreign": [f"{name} ({describe(item)})" for name, item in found if not owns(owner, item)],
        "missing_kinds": [kind for kind in ("PodMonitor", "PrometheusRule") if monitors and kind not in known],
        "node_port": node_port,
        "node_port_services": sorted(
            f"{item['metadata']['namespace']}/{item['metadata']['name']}"
            for item in services
            if node_port in [port.get("nodePort") for port in item["spec"].get("ports") or ()]
        ),
        "stateful_set": objects[0] or {},
    }


def _created(owner: Owner, namespace: Item) -> bool:
    """Return whether role cache created the namespace for this cache."""
    return CREATED in (namespace["metadata"].get("labels") or {}) and owns(owner, namespace)


class Removal(t.NamedTuple):
    """An object to remove."""

    kind: str
    name: str
    path: str
    uid: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Prune:
    """Removes objects of a cache. Raises ClusterError."""

    def __init__(self, api: Client, owner: Owner, keep: t.Collection[str], namespace: bool) -> None:
        """
        :param keep: objects to keep, as Kind/name.
        :param namespace: whether to remove the namespace too, if role cache created it for this cache and nothing else is in it.
        """
        self._api, self._owner = api, owner
        # Objects that do not belong to the cache and prevent the removal of the namespace.
        self.others: list[str] = []
        listed = api.each([functools.partial(self._ours, kind) for kind in _KINDS])
        self.removals = [one for found in listed for one in found if f"{one.kind}/{one.name}" not in keep]
        # Includes a namespace that is already being deleted, for which only waiting is left.
        self.waited = list(self.removals)
        if namespace:
            self._add_namespace()

    def _ours(self, kind: str) -> list[Removal]:
        fields = {"field_selector": f"type!={pull_secrets.TYPE}"} if kind == "Secret" else {}
        items = _list(self._api, kind, self._owner.namespace, label_selector=f"{self._owner.selector},{_NOT_PULL_SECRETS}", **fields)
        names = [(item["metadata"]["name"], item["metadata"]["uid"]) for item in items]
        return [Removal(kind, name, path_of(kind, self._owner.namespace, name), uid) for name, uid in sorted(names)]

    def _add_namespace(self) -> None:
        name = self._owner.namespace
        path = f"/api/v1/namespaces/{name}"
        found = self._api.get(path, _METADATA)
        if not found or not _created(self._owner, found):
            return
        removal = Removal("Namespace", name, path, found["metadata"]["uid"])
        if "deletionTimestamp" in found["metadata"]:
            self.waited.append(removal)
            return
        self.others = self._find_others()
        if not self.others:
            self.removals.append(removal)
            self.waited.append(removal)

    def _find_others(self) -> list[str]:
        def of(kind: str) -> list[str]:
            selectors = {}
            if kind == "Secret":
                # Pull secrets of other caches may be deleted with the namespace. A cache in it would have other objects too.
                ours = self._owner.labels[MANAGED_BY]
                selectors = {"field_selector": _NOT_FROM_CLUSTER, "label_selector": f"{MANAGED_BY}!={ours}"}
            items = _list(self._api, kind, self._owner.namespace, **selectors)
            # Objects with an owner are deleted with it.
            items = [item for item in items if not owns(self._owner, item) and not item["metadata"].get("ownerReferences")]
            names = [item["metadata"]["name"] for item in items]
            return [f"{kind} {name}" for name in names if kind != "ConfigMap" or name not in _FROM_CLUSTER]

        return [name for names in self._api.each([functools.partial(of, kind) for kind in _OTHERS]) for name in names]

    def remove(self, timeout: float) -> None:
        """Remove the objects, and wait until they are gone. Raise ObjectsError if this takes too long, and ClusterError."""
        for one in self.removals:
            # A conflict means that another object has the name now, or that the namespace is already being deleted.
            with contextlib.suppress(ConflictError):
                self._api.delete(one.path, one.uid)
        end = time.monotonic() + timeout
        left = self.waited
        while left := [one for one in left if self._exists(one)]:
            if time.monotonic() >= end:
                raise ObjectsError(
                    f"timeout: {some(map(str, left))} still exists after {timeout:g} s. Find out what blocks its removal"
                    " (metadata.finalizers, status.conditions), and run again."
                    f" Example: kubectl get {left[0].kind.lower()} {left[0].name} --namespace {self._owner.namespace} --output yaml"
                )
            time.sleep(_PAUSE)

    def _exists(self, one: Removal) -> bool:
        found = self._api.get(one.path, _METADATA)
        return found is not None and found["metadata"]["uid"] == one.uid


class Adoption:
    """Adds the labels of a cache to existing objects that a user names. Raises ClusterError."""

    def __init__(self, api: Client, owner: Owner, wanted: list[dict[str, str]]) -> None:
        """
        :param wanted: kind, name and namespace of each object.
        :raises ObjectsError: for an object that does not exist, or that belongs to another cache.
        """
        self._api, self._owner = api, owner
        for one in wanted:
            if one["kind"] not in _KINDS:
                raise ObjectsError(f"objects: kind must be one of {', '.join(_KINDS)} (got '{one['kind']}'). Example: kind: Service")
            for option in ("namespace", "name"):
                if not _OBJECT_NAME.fullmatch(one[option]):
                    raise ObjectsError(f"objects: {option} must be valid (got '{one[option]}'). Example: {option}: registry-cache")
        self._paths = [path_of(one["kind"], one["namespace"], one["name"]) for one in wanted]
        self._found = api.each([functools.partial(api.get, path, _METADATA) for path in self._paths])
        titles = [f"{one['kind']} {one['namespace']}/{one['name']}" for one in wanted]
        if missing := [title for title, item in zip(titles, self._found) if item is None]:
            raise ObjectsError(
                f"objects: {some(missing)} does not exist. Remove it from the list."
                " Example: objects: [{kind: Service, name: registry-cache}]"
            )
        self.objects = [f"{title} ({describe(item)}, created {_created_at(item)})" for title, item in zip(titles, self._found)]
        others = [said for said, item in zip(self.objects, self._found) if self._has_another_cache(item)]
        if others:
            raise ObjectsError(
                f"objects: {some(others)} belongs to another cache, which would lose it. Uninstall that cache first,"
                " or remove the object from the list. Example: objects: [{kind: Service, name: registry-cache}]"
            )
        self.adopted = [said for said, item in zip(self.objects, self._found) if not owns(owner, item)]

    def _has_another_cache(self, item: Item) -> bool:
        labels = item["metadata"].get("labels") or {}
        return OWNER_NAMESPACE in labels and not owns(self._owner, item)

    def write(self) -> None:
        """Add the labels. An object that was replaced since it was read is refused. Raise ClusterError."""
        for path, item in zip(self._paths, self._found):
            if not owns(self._owner, item):
                body = {"metadata": {"uid": item["metadata"]["uid"], "labels": self._owner.labels}}
                self._api.request("patch", path, body, **PATCH)


def _created_at(item: Item) -> str:
    return item["metadata"].get("creationTimestamp", "at an unknown time")
