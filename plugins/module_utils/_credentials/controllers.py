# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects for a controller in the cluster that copies pull secrets to namespaces created between two runs.

Private to this collection. The copies look like those of module pull_secrets, or have annotations by which it recognizes them. The next
run takes them over, so that a rotation updates them at once and they stay if the controller is removed.
"""

from __future__ import annotations

import functools
import typing as t

from .._kubernetes.client import APPLY, PATCH, Client
from .._kubernetes.errors import ApiError, ForbiddenError
from .._kubernetes.objects import compared, named
from .._kubernetes.owner import COMPONENT, Owner, manager
from . import external_secrets, pull_secrets, reflector
from .pull_secrets import PullSecretError

Object = t.Dict[str, t.Any]

# By kind: its API group and its plural in paths, in the order in which objects are removed.
_KINDS = {
    "ClusterExternalSecret": (external_secrets.API, "clusterexternalsecrets"),
    "ClusterSecretStore": (external_secrets.API, "clustersecretstores"),
    "RoleBinding": (external_secrets.RBAC, "rolebindings"),
    "Role": (external_secrets.RBAC, "roles"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "Secret": ("v1", "secrets"),
}
_AUTO = pull_secrets.REFLECTOR + "reflection-auto-enabled"


def objects(secrets: list[dict[str, t.Any]], controller: str, owner: Owner) -> list[Object]:
    """Return the objects to apply, in this order.

    :param secrets: as returned by pull_secrets.of_users.
    :param controller: none, external_secrets or reflector.
    :raises PullSecretError: if the controller does not support a setting.
    """
    # An empty list would become an empty selector, which matches all namespaces.
    secrets = [secret for secret in secrets if secret.get("namespaces") != []]
    if controller == "external_secrets":
        return [one for secret in secrets for one in external_secrets.objects(secret, owner)]
    if controller == "reflector":
        return reflector.objects(secrets, owner)
    return []


class Sources:
    """The objects that a controller reads: existing objects of a cache, and the wanted ones. Methods raise ClusterError.

    After C(apply) and C(prune), also in check mode, C(written) and C(removed) contain the changes.
    """

    def __init__(self, api: Client, owner: Owner, secrets: list[dict[str, t.Any]], controller: str) -> None:
        self._api, self._owner, self._controller = api, owner, controller
        self.warnings: list[str] = []
        self.written: list[str] = []
        self.removed: list[str] = []
        self._wanted = objects(secrets, controller, owner)
        served = self._served()
        if controller == "external_secrets" and not set(_KINDS) <= served:
            raise PullSecretError(
                f"controller: the cluster does not have ClusterSecretStore and ClusterExternalSecret ({external_secrets.API})."
                " Install external-secrets 0.16 or later first, or use no controller. Example: controller: none"
            )
        kinds = [kind for kind in _KINDS if kind in served]
        found = api.each([functools.partial(self._list, kind) for kind in kinds])
        self._ours = [{**item, "kind": kind} for kind, items in zip(kinds, found) for item in items]
        self._before = api.each([functools.partial(self._read, item) for item in self._wanted])

    @property
    def names(self) -> set[str]:
        """The names of the source Secrets, both existing and wanted."""
        return {item["metadata"]["name"] for item in [*self._ours, *self._wanted] if item["kind"] == "Secret"}

    def _served(self) -> set[str]:
        """Return the kinds that the cluster has."""
        own = {kind for kind, (group, _plural) in _KINDS.items() if group != external_secrets.API}
        try:
            found = self._api.get(f"/apis/{external_secrets.API}") or {}
        except ForbiddenError:
            return own
        return own | {one["kind"] for one in found.get("resources") or ()} & set(_KINDS)

    def _list(self, kind: str) -> list[Object]:
        group, plural = _KINDS[kind]
        selector = f"{self._owner.selector},{COMPONENT}={pull_secrets.SOURCE}"
        namespace = None if group == external_secrets.API else self._owner.namespace
        try:
            return self._api.list_all(plural, namespace=namespace, group=_root(group), label_selector=selector)
        except ForbiddenError as error:
            # A caller that may not list them has not created any. With a controller, listing is necessary.
            if self._controller != "none":
                raise
            self.warnings.append(f"Cannot list {kind}s of this cache ({error.words}). Existing ones are kept.")
            return []

    def _read(self, item: Object) -> Object | None:
        """Return the existing object with the same name, or None. Raise PullSecretError if it is not ours."""
        found = self._api.get(_path(item))
        if found is None:
            return None
        labels = found["metadata"].get("labels") or {}
        source = labels.get(COMPONENT) == pull_secrets.SOURCE
        # One of our pull secrets becomes the source of the copies.
        if self._owner.owns(found["metadata"]) and (source or found.get("type") == pull_secrets.TYPE):
            return found
        option, fix = "controller", "use no controller. Example: controller: none"
        if self._controller == "reflector":
            option, fix = "name", "choose another name. Example: name: registry-cache-pull"
        raise PullSecretError(
            f"{option}: {named(item)} already exists{manager(found['metadata'])}, but this module did not create it for a"
            f" controller of cache {self._owner.namespace}/{self._owner.name}. Delete it, or {fix}"
        )

    def apply(self, check: bool) -> None:
        """Apply the wanted objects. check: whether to send a dry run."""
        options = {**APPLY, "dry_run": "All"} if check else APPLY
        for item, before in zip(self._wanted, self._before):
            metadata = dict(item["metadata"])
            if before:
                # The API server refuses an object that took the name in the meantime.
                metadata["uid"] = before["metadata"]["uid"]
            try:
                after = self._api.request("patch", _path(item), {**item, "metadata": metadata}, **options)
            except ApiError as error:
                # The cache's namespace does not exist yet, and check mode does not create it.
                if not (check and pull_secrets.is_leaving(error)):
                    raise
                after = None
            if before is None or compared(before) != compared(after):
                self.written.append(named(item))

    def prune(self, check: bool, keep_copies: bool) -> None:
        """Remove objects that are no longer wanted. keep_copies: whether reflector keeps the copies that it made."""
        wanted = {(item["kind"], item["metadata"]["name"]) for item in self._wanted}
        for item in self._ours:
            kind, metadata = item["kind"], item["metadata"]
            if (kind, metadata["name"]) in wanted:
                continue
            if not check:
                if keep_copies and _AUTO in (metadata.get("annotations") or {}):
                    body = {"metadata": {"uid": metadata["uid"], "annotations": {_AUTO: "false"}}}
                    self._api.request("patch", _path(item), body, **PATCH)
                self._api.delete(_path(item), metadata["uid"])
            self.removed.append(named(item))


def _root(group: str) -> str:
    return f"/apis/{group}" if "/" in group else f"/api/{group}"


def _path(item: Object) -> str:
    group, plural = _KINDS[item["kind"]]
    namespace = item["metadata"].get("namespace")
    return "/".join([_root(group), *(["namespaces", namespace] if namespace else []), plural, item["metadata"]["name"]])
