# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects by which a controller of the cluster brings pull secrets to namespaces that are made later.

Private to this collection. The copies are as module pull_secrets makes them, or carry what it knows them by: the next run takes
them over, so that a rotation reaches them at once and nothing is lost when the controller goes.

- external-secrets: https://external-secrets.io/latest/provider/kubernetes/ and /api/clusterexternalsecret/
- reflector: https://github.com/emberstack/kubernetes-reflector
"""

from __future__ import annotations

import functools
import hashlib
import re
import typing as t
from base64 import b64encode

from .._kubernetes.client import APPLY, PATCH, Client
from .._kubernetes.errors import ApiError, ForbiddenError
from .._kubernetes.owner import COMPONENT, Owner, manager, shortened
from . import pull_secrets
from .pull_secrets import PullSecretError

Object = t.Dict[str, t.Any]

_ESO, _RBAC = "external-secrets.io/v1", "rbac.authorization.k8s.io/v1"
# Each kind with its group and its name in paths, in the order in which objects are removed.
_KINDS = {
    "ClusterExternalSecret": (_ESO, "clusterexternalsecrets"),
    "ClusterSecretStore": (_ESO, "clustersecretstores"),
    "RoleBinding": (_RBAC, "rolebindings"),
    "Role": (_RBAC, "roles"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "Secret": ("v1", "secrets"),
}
_AUTO = pull_secrets.REFLECTOR + "reflection-auto-enabled"
_NAME_OF_NAMESPACE = "kubernetes.io/metadata.name"
# How soon external-secrets sees a namespace, and a changed credential.
_REFRESH = "1m"
# Of the source's only key: no dot, in which the provider would see a path.
_KEY = "dockerconfigjson"
_REQUIREMENT = re.compile(
    r"\s*(?:(?P<set>[\w./-]+)\s+(?P<in>in|notin)\s*\((?P<values>[^()]*)\)|(?P<key>[\w./-]+)\s*(?P<is>==?|!=)\s*(?P<value>[\w.-]*)"
    r"|(?P<not>!?)\s*(?P<exists>[\w./-]+))\s*(?:,|$)"
)


def selector(where: dict[str, t.Any]) -> Object:
    """The namespaces of a pull secret as a LabelSelector.

    :param where: one of namespaces, namespace_selector, exclude_namespaces, as module pull_secrets has them.
    :raises PullSecretError: for a selector that none can say.
    """
    if where.get("namespaces"):
        return {"matchExpressions": [{"key": _NAME_OF_NAMESPACE, "operator": "In", "values": sorted(where["namespaces"])}]}
    if where.get("namespace_selector"):
        return {"matchExpressions": _requirements(where["namespace_selector"])}
    others = where.get("exclude_namespaces")
    return {"matchExpressions": [{"key": _NAME_OF_NAMESPACE, "operator": "NotIn", "values": sorted(others)}]} if others else {}


def _requirements(text: str) -> list[Object]:
    """Of `a=b,c in (d, e),!f`, as `kubectl get --selector` takes it."""
    found, place = [], 0
    while place < len(text):
        match = _REQUIREMENT.match(text, place)
        if not match:
            raise PullSecretError(f"namespace_selector: '{text}' is no selector of labels. Example: namespace_selector: team in (a, b)")
        place = match.end()
        if match["set"]:
            values = sorted(value.strip() for value in match["values"].split(","))
            found.append({"key": match["set"], "operator": {"in": "In", "notin": "NotIn"}[match["in"]], "values": values})
        elif match["key"]:
            found.append({"key": match["key"], "operator": "NotIn" if match["is"] == "!=" else "In", "values": [match["value"]]})
        else:
            found.append({"key": match["exists"], "operator": "DoesNotExist" if match["not"] else "Exists"})
    return found


def objects(secrets: list[dict[str, t.Any]], controller: str, owner: Owner) -> list[Object]:
    """The objects to apply, in this order.

    :param secrets: as module pull_secrets takes them.
    :param controller: none, external_secrets or reflector.
    :raises PullSecretError: for what the controller cannot do.
    """
    # No namespaces would be no selector, which is all of them.
    secrets = [secret for secret in secrets if secret.get("namespaces") != []]
    if controller == "external_secrets":
        return [one for secret in secrets for one in _of_external_secrets(secret, owner)]
    if controller == "reflector":
        names = [secret["name"] for secret in secrets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise PullSecretError(
                f"controller: several users have a pull secret named {', '.join(twice)}, and reflector copies by the name."
                " Give each its own. Example: pull_secret: {name: team-a}"
            )
        return [_of_reflector(secret, owner) for secret in secrets]
    return []


def _labels(owner: Owner) -> Object:
    return {**owner.labels, COMPONENT: pull_secrets.SOURCE}


def _slug(user: str) -> str:
    """A name of Kubernetes for a user; with a hash where it is not the user's own."""
    plain = re.sub("[^a-z0-9]+", "-", user.lower()).strip("-")[:40].strip("-")
    return plain if plain == user else f"{plain or 'user'}-{hashlib.sha256(user.encode()).hexdigest()[:8]}"


def _of_external_secrets(secret: dict[str, t.Any], owner: Owner) -> list[Object]:
    name, namespace = f"{owner.name}-pull-{_slug(secret['user'] or secret['username'])}", owner.namespace
    # Another namespace may have a cache of this name.
    cluster_name = shortened(f"{name}.{namespace}")
    where = selector(secret)
    template = pull_secrets.metadata(owner, secret)

    def made(api_version: str, kind: str, namespaced: bool = True, **fields: t.Any) -> Object:
        place = {"name": name, "namespace": namespace} if namespaced else {"name": cluster_name}
        return {"apiVersion": api_version, "kind": kind, "metadata": {**place, "labels": _labels(owner)}, **fields}

    # A store of its own for each user, whose service account reads that user's credential alone: any namespace of the store's
    # can ask it for whatever it may read.
    return [
        made("v1", "Secret", data={_KEY: _encoded(pull_secrets.content(secret))}),
        made("v1", "ServiceAccount", automountServiceAccountToken=False),
        made(_RBAC, "Role", rules=[{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get"]}]),
        made(
            _RBAC,
            "RoleBinding",
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            subjects=[{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        ),
        made(
            _ESO,
            "ClusterSecretStore",
            namespaced=False,
            spec={
                "conditions": [{"namespaceSelector": where}],
                "provider": {
                    "kubernetes": {
                        "remoteNamespace": namespace,
                        "server": {
                            "caProvider": {"type": "ConfigMap", "name": "kube-root-ca.crt", "namespace": namespace, "key": "ca.crt"}
                        },
                        "auth": {"serviceAccount": {"name": name, "namespace": namespace}},
                    }
                },
            },
        ),
        made(
            _ESO,
            "ClusterExternalSecret",
            namespaced=False,
            spec={
                "externalSecretName": secret["name"],
                "namespaceSelectors": [where],
                "refreshTime": _REFRESH,
                "externalSecretSpec": {
                    "refreshInterval": _REFRESH,
                    "secretStoreRef": {"kind": "ClusterSecretStore", "name": cluster_name},
                    "target": {
                        "name": secret["name"],
                        # It stays when the controller goes, and module pull_secrets knows it by its labels.
                        "creationPolicy": "Orphan",
                        "deletionPolicy": "Retain",
                        "template": {"type": pull_secrets.TYPE, "metadata": {name: values for name, values in template.items() if values}},
                    },
                    "data": [{"secretKey": pull_secrets.KEY, "remoteRef": {"key": name, "property": _KEY}}],
                },
            },
        ),
    ]


def _of_reflector(secret: dict[str, t.Any], owner: Owner) -> Object:
    patterns, namespace = "-", owner.namespace
    if secret.get("namespaces"):
        patterns = ",".join(sorted(secret["namespaces"]))
    elif secret.get("exclude_namespaces") is not None:
        others = sorted(secret["exclude_namespaces"])
        if namespace not in others:
            raise PullSecretError(
                f"exclude_namespaces must name the cache's namespace, where reflector's source is."
                f" Example: exclude_namespaces: {[*others, namespace]}"
            )
        patterns = f"(?!(?:{'|'.join(map(re.escape, others))})$).*"
    annotations = {"reflection-allowed": "true", "reflection-auto-enabled": "true"}
    for kind in ("allowed", "auto"):
        # A reflector that knows no selectors would take a missing list for all namespaces; "-" is none.
        annotations[f"reflection-{kind}-namespaces"] = patterns
        if secret.get("namespace_selector"):
            annotations[f"reflection-{kind}-namespaces-selector"] = secret["namespace_selector"]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": pull_secrets.TYPE,
        "metadata": {
            "name": secret["name"],
            "namespace": namespace,
            "labels": _labels(owner),
            "annotations": {pull_secrets.REFLECTOR + name: value for name, value in annotations.items()},
        },
        "data": {pull_secrets.KEY: _encoded(pull_secrets.content(secret))},
    }


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


class Sources:
    """The objects that a controller reads: the existing ones of a cache, and the wanted ones. Raises ClusterError.

    After C(apply) and C(prune), or in check mode, C(written) and C(removed) name what differed.
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
                f"controller: the cluster has no ClusterSecretStore or no ClusterExternalSecret ({_ESO})."
                " Install external-secrets 0.16 or later first. Example: controller: none"
            )
        kinds = [kind for kind in _KINDS if kind in served]
        found = api.each([functools.partial(self._list, kind) for kind in kinds])
        self._ours = [{**item, "kind": kind} for kind, items in zip(kinds, found) for item in items]
        self._before = api.each([functools.partial(self._read, item) for item in self._wanted])

    @property
    def names(self) -> set[str]:
        """The names of the source Secrets, existing and wanted."""
        return {item["metadata"]["name"] for item in [*self._ours, *self._wanted] if item["kind"] == "Secret"}

    def _served(self) -> set[str]:
        """The kinds that the cluster has."""
        own = {kind for kind, (group, _plural) in _KINDS.items() if group != _ESO}
        try:
            found = self._api.get(f"/apis/{_ESO}") or {}
        except ForbiddenError:
            return own
        return own | {one["kind"] for one in found.get("resources") or ()} & set(_KINDS)

    def _list(self, kind: str) -> list[Object]:
        group, plural = _KINDS[kind]
        selector = f"{self._owner.selector},{COMPONENT}={pull_secrets.SOURCE}"
        namespace = None if group == _ESO else self._owner.namespace
        try:
            return self._api.list_all(plural, namespace=namespace, group=_root(group), label_selector=selector)
        except ForbiddenError as error:
            # Who may not even list them has made none; with a controller they are needed.
            if self._controller != "none":
                raise
            self.warnings.append(f"{kind}s of this cache cannot be listed ({error.words}): they stay, if there are any.")
            return []

    def _read(self, item: Object) -> Object | None:
        """The existing object of a name, if it is ours."""
        kind, metadata = item["kind"], item["metadata"]
        found = self._api.get(_path(item))
        if found is None:
            return None
        labels = found["metadata"].get("labels") or {}
        source = labels.get(COMPONENT) == pull_secrets.SOURCE
        # A pull secret of ours becomes the source of its copies.
        if self._owner.owns(found["metadata"]) and (source or found.get("type") == pull_secrets.TYPE):
            return found
        option, fix = "controller", "use no controller. Example: controller: none"
        if self._controller == "reflector":
            option, fix = "name", "choose another name. Example: name: registry-cache-pull"
        raise PullSecretError(
            f"{option}: there is another {kind} {_named(metadata)}{manager(found['metadata'])}, which this module did not"
            f" make for a controller of cache {self._owner.namespace}/{self._owner.name}. Delete it, or {fix}"
        )

    def apply(self, check: bool) -> None:
        """Bring what is wanted to its state; check asks for a dry run."""
        options = {**APPLY, "dry_run": "All"} if check else APPLY
        for item, before in zip(self._wanted, self._before):
            metadata = dict(item["metadata"])
            if before:
                # Another object that took the name meanwhile is refused.
                metadata["uid"] = before["metadata"]["uid"]
            try:
                after = self._api.request("patch", _path(item), {**item, "metadata": metadata}, **options)
            except ApiError as error:
                # The namespace comes with the cache, which a check does not make.
                if not (check and pull_secrets.is_leaving(error)):
                    raise
                after = None
            if before is None or _compared(before) != _compared(after):
                self.written.append(f"{item['kind']} {_named(item['metadata'])}")

    def prune(self, check: bool, keep_copies: bool) -> None:
        """Remove what is no longer wanted; with keep_copies, reflector leaves the copies that it made."""
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
            self.removed.append(f"{kind} {_named(metadata)}")


def _root(group: str) -> str:
    return f"/apis/{group}" if "/" in group else f"/api/{group}"


def _path(item: Object) -> str:
    group, plural = _KINDS[item["kind"]]
    namespace = item["metadata"].get("namespace")
    return "/".join([_root(group), *(["namespaces", namespace] if namespace else []), plural, item["metadata"]["name"]])


def _named(metadata: Object) -> str:
    return "/".join(filter(None, [metadata.get("namespace"), metadata["name"]]))


def _compared(item: Object | None) -> Object:
    """An object without what no run writes."""
    item = item or {}
    metadata = {
        key: value for key, value in item.get("metadata", {}).items() if key not in ("managedFields", "resourceVersion", "generation")
    }
    return {**{key: value for key, value in item.items() if key != "status"}, "metadata": metadata}
