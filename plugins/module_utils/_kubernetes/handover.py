# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry that another tool deployed: its Service becomes the cache's, then the rest of it is removed.

Private to this collection. A NodePort belongs to one Service, and kube-proxy refuses connections between the removal of one and the
creation of the next. So the Service stays: one patch changes its selector, the addresses behind it are replaced at once, and its
port keeps the name by which kube-proxy knows it.
"""

from __future__ import annotations

import functools
import time
import typing as t
from base64 import b64decode

from .._credentials import htpasswd
from . import cache_objects
from .client import PATCH, Client
from .errors import ClusterError, PermanentError, some
from .owner import NAME, OWNER_NAMESPACE, Owner
from .replicas import Replicas

Item = t.Dict[str, t.Any]

# The container port of a replica, by name and number, as role cache has them.
_PORT_NAME, _PORT = "registry", 5000
_NODE_PORTS = range(30000, 32768)
# Kinds of which objects may be removed with the Deployment.
KINDS = ("ConfigMap", "Secret", "ServiceAccount")
# Fields of a pod's specification that name one of them.
_REFERENCES = {
    **dict.fromkeys(("configMap", "configMapRef", "configMapKeyRef"), "ConfigMap"),
    **dict.fromkeys(("secret", "secretRef", "secretKeyRef"), "Secret"),
}
_PAUSE = 1


class HandoverError(ClusterError):
    """What cannot be done; the message is a sentence for the user."""


def _sources(pod: Item) -> t.Iterator[Item]:
    """The parts of a pod's specification that may name a ConfigMap or Secret."""
    for volume in pod.get("volumes") or ():
        yield volume
        yield from (volume.get("projected") or {}).get("sources") or ()
    for container in (pod.get("initContainers") or []) + pod["containers"]:
        yield from container.get("envFrom") or ()
        yield from (variable.get("valueFrom") or {} for variable in container.get("env") or ())


def references(pod: Item) -> set[tuple[str, str]]:
    """Kind and name of what a pod's specification uses: mounted or as variables, and its service account.

    Not its image pull secrets: the cache may use these too.
    """
    found = set()
    for source in _sources(pod):
        for key, kind in _REFERENCES.items():
            value = source.get(key) or {}
            if name := value.get("secretName") or value.get("name"):
                found.add((kind, name))
    account = pod.get("serviceAccountName") or "default"
    return found | ({("ServiceAccount", account)} if account != "default" else set())


def _check_name(option: str, name: str) -> None:
    """:raises HandoverError: for what cannot be the name of an object; it becomes part of an address."""
    if not NAME.fullmatch(name):
        raise HandoverError(f"{option}: '{name}' must be the name of an object. Example: cncf-gar-proxy")


def _keeps(user: htpasswd.User | None, hashed: str) -> bool:
    """Return whether a user of the cache has the password of this hash."""
    return user is not None and (user.hash == hashed or (user.password is not None and htpasswd.verifies(user.password, hashed)))


class Handover:
    """The old registry and its Service, as read from the cluster. Raises ClusterError if they are not as the options say."""

    def __init__(self, client: Client, owner: Owner, service: str, node_port: int, registry: dict[str, t.Any]) -> None:
        """
        :param service: the name of the Service that has the NodePort.
        :param registry: C(deployment), C(image), C(htpasswd_secret), C(htpasswd_key) and C(objects), as the module takes them.
        """
        self._client, self._owner, self._node_port, self._registry = client, owner, node_port, registry
        _check_name("service", service)
        _check_name("registry.deployment", registry["deployment"])
        for one in registry["objects"]:
            _check_name("registry.objects", one["name"])
        self._core = f"/api/v1/namespaces/{owner.namespace}"
        self._service_path = f"{self._core}/services/{service}"
        self._deployment_path = f"/apis/apps/v1/namespaces/{owner.namespace}/deployments/{registry['deployment']}"
        self._where = f"Service {service} in namespace {owner.namespace}"
        self._deployed = f"Deployment {registry['deployment']} in namespace {owner.namespace}"
        paths = [cache_objects.path_of(one["kind"], owner.namespace, one["name"]) for one in registry["objects"]]
        tasks = [functools.partial(client.get, path) for path in (self._service_path, self._deployment_path, *paths)]
        found, self.deployment, *objects = client.each(tasks)
        # By kind and name: the path, and the object if it exists.
        self._named = {(one["kind"], one["name"]): (path, item) for one, path, item in zip(registry["objects"], paths, objects)}
        if found is None:
            raise HandoverError(
                f"service: there is no {self._where}. Name the Service that has the NodePort, and install the cache in the namespace"
                " of that Service. Example: service: cncf-registry-service"
            )
        self.service: Item = found
        # Whether the Service already selects the pods of the cache.
        self.done: bool = owner.owns(found["metadata"]) and found["spec"].get("selector") == self._selector
        self._check_service()
        if self.deployment is not None:
            self._check_deployment()
        elif not self.done:
            raise HandoverError(
                f"registry.deployment: there is no {self._deployed}, and {self._where} does not select the cache's pods yet. Name"
                " the Deployment of the old registry. Example: deployment: cncf-gar-proxy"
            )
        self._check_objects()

    @property
    def _selector(self) -> dict[str, str]:
        """The labels of the cache's pods, as role cache selects them."""
        return {"app.kubernetes.io/name": "registry-cache", "app.kubernetes.io/instance": self._owner.name}

    @property
    def _pod(self) -> Item:
        """The specification of the registry's pods."""
        return self.deployment["spec"]["template"]["spec"]

    def _check_service(self) -> None:
        if self.done:
            return
        metadata, spec = self.service["metadata"], self.service["spec"]
        if OWNER_NAMESPACE in (metadata.get("labels") or {}):
            raise HandoverError(
                f"service: {self._where} belongs to a cache already ({cache_objects.describe(self.service)}), but does not select"
                " the pods of this cache. Remove the label, or name another Service."
                f" Example: kubectl label service {metadata['name']} --namespace {self._owner.namespace} {OWNER_NAMESPACE}-"
            )
        ports = spec.get("ports") or []
        if spec.get("type") != "NodePort" or len(ports) != 1 or ports[0].get("protocol", "TCP") != "TCP":
            raise HandoverError(
                f"service: {self._where} must be of type NodePort with exactly one TCP port (got type {spec.get('type', 'ClusterIP')} and"
                f" {len(ports)} ports). Name the Service of the old registry. Example: service: cncf-registry-service"
            )
        if ports[0].get("nodePort") != self._node_port:
            held = ports[0].get("nodePort")
            raise HandoverError(
                f"node_port: {self._where} has NodePort {held} (got {self._node_port}). The cache takes over the port that clients know."
                f" Example: node_port: {held}"
            )

    def _check_deployment(self) -> None:
        template, image = self.deployment["spec"]["template"], self._registry["image"]
        if OWNER_NAMESPACE in (self.deployment["metadata"].get("labels") or {}):
            raise HandoverError(
                f"registry.deployment: {self._deployed} belongs to a cache ({cache_objects.describe(self.deployment)}). Name the"
                " Deployment of the registry that the cache replaces. Example: deployment: cncf-gar-proxy"
            )
        images = [container["image"] for container in self._pod["containers"]]
        if images != [image]:
            raise HandoverError(
                f"registry.image: {self._deployed} must have one container with image {image} (got {', '.join(images)}). If it is"
                f" the registry that the cache replaces, name its image. Example: image: {images[0]}"
            )
        selector, labels = self.service["spec"].get("selector") or {}, template["metadata"].get("labels") or {}
        if not self.done and not (selector and selector.items() <= labels.items()):
            raise HandoverError(
                f"service: {self._where} does not select {self._deployed}: its selector is {selector}, and the pods have the labels"
                f" {labels}. Name the Service and the Deployment of the same registry. Example: service: cncf-registry-service"
            )
        secret = self._registry["htpasswd_secret"]
        if secret and ("Secret", secret) not in references(self._pod):
            raise HandoverError(
                f"registry.htpasswd_secret: {self._deployed} does not use Secret {secret}, but {self._used('Secret')}. Name the Secret"
                " that holds its htpasswd file. Example: htpasswd_secret: registry-htpasswd"
            )

    def _used(self, kind: str) -> str:
        return some(name for of, name in references(self._pod) if of == kind) or "none"

    def _check_objects(self) -> None:
        for (kind, name), (_path, item) in self._named.items():
            if item is None:
                continue
            what = f"registry.objects: {kind} {name} in namespace {self._owner.namespace}"
            if OWNER_NAMESPACE in (item["metadata"].get("labels") or {}):
                raise HandoverError(
                    f"{what} belongs to a cache ({cache_objects.describe(item)}). Remove it from the list. Example: objects: []"
                )
            if self.deployment is None:
                raise HandoverError(
                    f"{what} is not removed: {self._deployed} is gone, so nothing shows that it belonged to the old registry. Remove it"
                    f" from the list, or delete it. Example: kubectl delete {kind.lower()} {name} --namespace {self._owner.namespace}"
                )
            if (kind, name) not in references(self._pod):
                raise HandoverError(
                    f"{what} is not used by {self._deployed}, which uses {self._used(kind)} of this kind. Remove it from the list."
                    f" Example: objects: [{{kind: {kind}, name: registry}}]"
                )

    @property
    def unnamed(self) -> list[str]:
        """What the registry uses and nobody named; it stays."""
        if self.deployment is None:
            return []
        return [f"{kind} {name}" for kind, name in sorted(references(self._pod) - self._named.keys())]

    @property
    def describes(self) -> list[str]:
        """A line for each object that is taken over or removed."""
        lines = [f"{self._where}: {'leads to the cache' if self.done else 'is to lead to the cache'}"]
        if self.deployment is not None:
            lines.append(f"{self._deployed}: is to be removed")
        return lines + [f"{kind} {name}: is to be removed" for (kind, name), (_path, item) in self._named.items() if item]

    def check_users(self, users: t.Sequence[htpasswd.User]) -> None:
        """:raises HandoverError: for a user of the registry whose password the cache would not take."""
        name, key = self._registry["htpasswd_secret"], self._registry["htpasswd_key"]
        if not name or self.deployment is None or self.done:
            return
        where = f"Secret {name} in namespace {self._owner.namespace}"
        found = self._client.get(f"{self._core}/secrets/{name}")
        try:
            lines, places = htpasswd.parse(b64decode(((found or {}).get("data") or {})[key]).decode())
        except (LookupError, ValueError) as error:
            problem = error if isinstance(error, htpasswd.TextError) else f"it has no text under '{key}'"
            raise HandoverError(f"registry.htpasswd_key: {where}: {problem}. Example: htpasswd_key: htpasswd") from None
        wanted = {user.name: user for user in users}
        hashes = {user: lines[index].partition(":")[2].strip() for user, index in places.items()}
        if lost := [user for user, hashed in hashes.items() if not _keeps(wanted.get(user), hashed)]:
            raise HandoverError(
                f"users: {some(lost)} of {where} would lose access: the cache has no such user, or another password or hash. Give the"
                f" user the hash that follows the name in the htpasswd file. Example: users: [{{name: {lost[0]}, hash: '$2y$10$...'}}]"
            )

    def temporary_node_port(self) -> int:
        """A NodePort for the cache while the registry has the one that clients know: the one it has already, or a free one near it."""
        taken = set()
        for item in self._client.list_all("services"):
            metadata, spec = item["metadata"], item["spec"]
            ports = {port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")}
            if ports and Owner(metadata["namespace"], metadata["name"]) == self._owner and self._owner.owns(metadata):
                return ports.pop()
            taken |= ports | {spec.get("healthCheckNodePort")}
        for port in sorted(_NODE_PORTS, key=lambda port: (abs(port - self._node_port), -port)):
            if port not in taken:
                return port
        raise HandoverError("node_port: every NodePort of the cluster is taken. Remove a Service that has one. Example: node_port: 30026")

    def switch(self) -> None:
        """Switch the Service to the cache if every replica is ready. Raises ClusterError."""
        selector = ",".join(f"{label}={value}" for label, value in self._selector.items())
        try:
            Replicas(self._client, self._owner.namespace, _PORT_NAME, _PORT).ready(selector)
        except PermanentError as error:
            raise HandoverError(
                f"name: {error}, so {self._where} still selects the old registry. Run again when all replicas are ready."
                f" Example: kubectl get pods --namespace {self._owner.namespace} --selector {selector}"
            ) from error
        (port,) = self.service["spec"]["ports"]
        former = dict.fromkeys(self.service["spec"].get("selector") or {})
        body = {
            "metadata": {"uid": self.service["metadata"]["uid"], "labels": self._owner.labels},
            "spec": {
                "selector": {**former, **self._selector},
                # The port keeps its name: kube-proxy would have no addresses for another one until it hears of them.
                "ports": [{**port, "port": _PORT, "targetPort": _PORT_NAME}],
                "externalTrafficPolicy": "Cluster",
                "sessionAffinity": "None",
                "sessionAffinityConfig": None,
            },
        }
        self._client.request("patch", self._service_path, body, **PATCH)

    def remove(self, timeout: float) -> None:
        """Remove the old registry and its listed objects, the Deployment last, because it shows what it used. Raises ClusterError."""
        if self.deployment is None:
            return
        metadata = self.deployment["metadata"]
        # Running pods still need the other objects.
        self._client.request("patch", self._deployment_path, {"metadata": {"uid": metadata["uid"]}, "spec": {"replicas": 0}}, **PATCH)
        selector = ",".join(f"{label}={value}" for label, value in self.deployment["spec"]["selector"]["matchLabels"].items())
        end = time.monotonic() + timeout
        pods = functools.partial(self._client.list_all, "pods", True, self._owner.namespace, label_selector=selector)
        self._wait(lambda: not pods(), end, "its pods run")
        for path, item in self._named.values():
            if item is not None:
                self._client.delete(path, item["metadata"]["uid"])
        self._client.delete(self._deployment_path, metadata["uid"])
        self._wait(lambda: self._client.get(self._deployment_path) is None, end, "it exists")

    def _wait(self, gone: t.Callable[[], bool], end: float, state: str) -> None:
        while not gone():
            if time.monotonic() >= end:
                raise HandoverError(
                    f"{self._deployed} was not removed in time: {state} still. Find out what blocks the removal, and run again."
                    f" Example: kubectl describe deployment {self._registry['deployment']} --namespace {self._owner.namespace}"
                )
            time.sleep(_PAUSE)
