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

import hashlib
import re
import typing as t
from base64 import b64encode

from ansible_collections.pullthrough.registry_cache.plugins.module_utils import _pull_secrets

Object = t.Dict[str, t.Any]

COMPONENT = "pull-secret-source"
_ESO, _RBAC = "external-secrets.io/v1", "rbac.authorization.k8s.io/v1"
_NAME_OF_NAMESPACE = "kubernetes.io/metadata.name"
# How soon external-secrets sees a namespace, and a changed credential.
_REFRESH = "1m"
# Of the source's only key: no dot, in which the provider would see a path.
_KEY = "dockerconfigjson"
_REQUIREMENT = re.compile(
    r"\s*(?:(?P<set>[\w./-]+)\s+(?P<in>in|notin)\s*\((?P<values>[^()]*)\)|(?P<key>[\w./-]+)\s*(?P<is>==?|!=)\s*(?P<value>[\w.-]*)"
    r"|(?P<not>!?)\s*(?P<exists>[\w./-]+))\s*(?:,|$)"
)


class ControllerError(ValueError):
    """What a controller cannot do; the message names the option and the way out."""


def selector(where: dict[str, t.Any]) -> Object:
    """The namespaces of a pull secret as a LabelSelector.

    :param where: one of namespaces, namespace_selector, all_namespaces_but, as module pull_secrets has them.
    :raises ControllerError: for a selector that none can say.
    """
    if where.get("namespaces"):
        return {"matchExpressions": [{"key": _NAME_OF_NAMESPACE, "operator": "In", "values": sorted(where["namespaces"])}]}
    if where.get("namespace_selector"):
        return {"matchExpressions": _requirements(where["namespace_selector"])}
    others = where.get("all_namespaces_but")
    return {"matchExpressions": [{"key": _NAME_OF_NAMESPACE, "operator": "NotIn", "values": sorted(others)}]} if others else {}


def _requirements(text: str) -> list[Object]:
    """Of `a=b,c in (d, e),!f`, as `kubectl get --selector` takes it."""
    found, place = [], 0
    while place < len(text):
        match = _REQUIREMENT.match(text, place)
        if not match:
            raise ControllerError(
                f"registry_cache_pull_secret_namespace_selector: '{text}' is no selector of labels. Example: team in (a, b)"
            )
        place = match.end()
        if match["set"]:
            values = sorted(value.strip() for value in match["values"].split(","))
            found.append({"key": match["set"], "operator": {"in": "In", "notin": "NotIn"}[match["in"]], "values": values})
        elif match["key"]:
            found.append({"key": match["key"], "operator": "NotIn" if match["is"] == "!=" else "In", "values": [match["value"]]})
        else:
            found.append({"key": match["exists"], "operator": "DoesNotExist" if match["not"] else "Exists"})
    return found


def objects(secrets: list[dict[str, t.Any]], controller: str, cache: str, namespace: str, instance: str) -> list[Object]:
    """What is to be applied, in this order.

    :param secrets: as module pull_secrets takes them, with C(user), the inventory's name of the user.
    :param controller: none, external_secrets or reflector.
    :param cache: name of the cache, whose namespace holds the sources.
    :param instance: of module pull_secrets, which knows its own Secrets by it.
    :raises ControllerError: for what the controller cannot do.
    """
    labels = {**_pull_secrets.labels(cache), "app.kubernetes.io/component": COMPONENT}
    if controller == "external_secrets":
        return [one for secret in secrets for one in _of_external_secrets(secret, cache, namespace, instance, labels)]
    if controller == "reflector":
        names = [secret["name"] for secret in secrets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ControllerError(
                f"registry_cache_users: several users have a pull secret named {', '.join(twice)}, and reflector copies by the name."
                " Give each its own by pull_secret. Example: pull_secret: {name: team-a}"
            )
        return [_of_reflector(secret, namespace, labels) for secret in secrets]
    return []


def _slug(user: str) -> str:
    """A name of Kubernetes for a user; with a hash where it is not the user's own."""
    plain = re.sub("[^a-z0-9]+", "-", user.lower()).strip("-")[:40].strip("-")
    return plain if plain == user else f"{plain or 'user'}-{hashlib.sha256(user.encode()).hexdigest()[:8]}"


def _of_external_secrets(secret: dict[str, t.Any], cache: str, namespace: str, instance: str, labels: Object) -> list[Object]:
    name = f"{cache}-pull-{_slug(secret['user'])}"
    where = selector(secret)

    def made(api_version: str, kind: str, namespaced: bool = True, **fields: t.Any) -> Object:
        metadata = {"name": name, "labels": labels, **({"namespace": namespace} if namespaced else {})}
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}

    # A store of its own for each user, whose service account reads that user's credential alone: any namespace of the store's
    # can ask it for whatever it may read.
    return [
        made("v1", "Secret", data={_KEY: _encoded(_pull_secrets.content(secret))}),
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
                    "secretStoreRef": {"kind": "ClusterSecretStore", "name": name},
                    "target": {
                        "name": secret["name"],
                        # It stays when the controller goes, and module pull_secrets knows it by its labels.
                        "creationPolicy": "Orphan",
                        "deletionPolicy": "Retain",
                        "template": {"type": _pull_secrets.TYPE, "metadata": {"labels": _pull_secrets.labels(instance)}},
                    },
                    "data": [{"secretKey": _pull_secrets.KEY, "remoteRef": {"key": name, "property": _KEY}}],
                },
            },
        ),
    ]


def _of_reflector(secret: dict[str, t.Any], namespace: str, labels: Object) -> Object:
    patterns = "-"
    if secret.get("namespaces"):
        patterns = ",".join(sorted(secret["namespaces"]))
    elif secret.get("all_namespaces_but") is not None:
        others = sorted(secret["all_namespaces_but"])
        if namespace not in others:
            raise ControllerError(
                f"registry_cache_pull_secret_all_namespaces_but must name the cache's namespace, where reflector's source is."
                f" Example: registry_cache_pull_secret_all_namespaces_but: {[*others, namespace]}"
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
        "type": _pull_secrets.TYPE,
        "metadata": {
            "name": secret["name"],
            "namespace": namespace,
            "labels": labels,
            "annotations": {_pull_secrets.REFLECTOR + name: value for name, value in annotations.items()},
        },
        "data": {_pull_secrets.KEY: _encoded(_pull_secrets.content(secret))},
    }


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()
