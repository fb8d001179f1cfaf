# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects with which external-secrets copies a pull secret to namespaces.

Private to this collection. https://external-secrets.io/latest/provider/kubernetes/ and /api/clusterexternalsecret/
"""

from __future__ import annotations

import hashlib
import re
import typing as t

from .._kubernetes.owner import Owner, shortened
from . import pull_secrets
from .pull_secrets import PullSecretError

Object = t.Dict[str, t.Any]

API, RBAC = "external-secrets.io/v1", "rbac.authorization.k8s.io/v1"
_NAME_OF_NAMESPACE = "kubernetes.io/metadata.name"
# How often external-secrets looks for new namespaces and changed credentials.
_REFRESH = "1m"
# Only key of the source Secret. It has no dot, which the provider would interpret as a path.
_KEY = "dockerconfigjson"
_REQUIREMENT = re.compile(
    r"\s*(?:(?P<set>[\w./-]+)\s+(?P<in>in|notin)\s*\((?P<values>[^()]*)\)|(?P<key>[\w./-]+)\s*(?P<is>==?|!=)\s*(?P<value>[\w.-]*)"
    r"|(?P<not>!?)\s*(?P<exists>[\w./-]+))\s*(?:,|$)"
)


def objects(secret: dict[str, t.Any], owner: Owner) -> list[Object]:
    """Return the objects of one user, in the order in which they are applied.

    :param secret: as returned by pull_secrets.of_users.
    :raises PullSecretError: for a selector that a LabelSelector cannot express.
    """
    name, namespace = f"{owner.name}-pull-{_slug(secret['user'] or secret['username'])}", owner.namespace
    # A cache in another namespace may have the same name.
    cluster_name = shortened(f"{name}.{namespace}")
    where = _selector(secret)
    template = pull_secrets.metadata(owner, secret)

    def made(api_version: str, kind: str, namespaced: bool = True, **fields: t.Any) -> Object:
        place = {"name": name, "namespace": namespace} if namespaced else {"name": cluster_name}
        return {"apiVersion": api_version, "kind": kind, "metadata": {**place, "labels": pull_secrets.source_labels(owner)}, **fields}

    # Each user has a separate store. Its service account may read only that user's credential, because any namespace that the store
    # admits can request everything that the service account may read.
    return [
        made("v1", "Secret", data={_KEY: pull_secrets.encoded(secret)}),
        made("v1", "ServiceAccount", automountServiceAccountToken=False),
        made(RBAC, "Role", rules=[{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get"]}]),
        made(
            RBAC,
            "RoleBinding",
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            subjects=[{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        ),
        made(
            API,
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
            API,
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
                        # The copy stays if the controller is removed. Module pull_secrets recognizes it by its labels.
                        "creationPolicy": "Orphan",
                        "deletionPolicy": "Retain",
                        "template": {"type": pull_secrets.TYPE, "metadata": {name: values for name, values in template.items() if values}},
                    },
                    "data": [{"secretKey": pull_secrets.KEY, "remoteRef": {"key": name, "property": _KEY}}],
                },
            },
        ),
    ]


def _slug(user: str) -> str:
    """Return a Kubernetes name for a user, with a hash if it differs from the user's name."""
    plain = re.sub("[^a-z0-9]+", "-", user.lower()).strip("-")[:40].strip("-")
    return plain if plain == user else f"{plain or 'user'}-{hashlib.sha256(user.encode()).hexdigest()[:8]}"


def _selector(where: dict[str, t.Any]) -> Object:
    """Return the namespaces of a pull secret as a LabelSelector.

    :param where: mapping with one of namespaces, namespace_selector and exclude_namespaces, as in module pull_secrets.
    :raises PullSecretError: for a selector that a LabelSelector cannot express.
    """
    if where.get("namespaces"):
        return {"matchExpressions": [{"key": _NAME_OF_NAMESPACE, "operator": "In", "values": sorted(where["namespaces"])}]}
    if where.get("namespace_selector"):
        return {"matchExpressions": _requirements(where["namespace_selector"])}
    others = where.get("exclude_namespaces")
    return {"matchExpressions": [{"key": _NAME_OF_NAMESPACE, "operator": "NotIn", "values": sorted(others)}]} if others else {}


def _requirements(text: str) -> list[Object]:
    """Return the requirements of a selector such as `a=b,c in (d, e),!f`, in the format of kubectl. Raise PullSecretError."""
    found, place = [], 0
    while place < len(text):
        match = _REQUIREMENT.match(text, place)
        if not match:
            raise PullSecretError(
                f"namespace_selector: must be a label selector (got '{text}'). Example: namespace_selector: team in (a, b)"
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
