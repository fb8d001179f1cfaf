#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_oidc_info
short_description: Read a cluster's identity, its service-account issuer and its public keys
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Reads what a Kubernetes API server says of the service-account tokens that it signs.
  - Asks the API server itself, so that it works for clusters whose issuer nobody else can reach.
  - Reads the UID of namespace C(kube-system), which identifies the cluster for as long as it exists.
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.attributes.read
requirements:
  - kubernetes
notes:
  - The caller needs C(get) on the non-resource URLs C(/.well-known/openid-configuration) and C(/openid/v1/jwks),
    as the cluster role C(system:service-account-issuer-discovery) grants it, and C(get) on the namespace C(kube-system).
"""

EXAMPLES = r"""
- name: Read the cluster's keys
  pullthrough.registry_cache.cluster_oidc_info:
    context: my-cluster
  register: cluster
"""

RETURN = r"""
issuer:
  description: The tokens' issuer.
  returned: success
  type: str
  sample: https://kubernetes.default.svc.cluster.local
jwks_uri:
  description: Where the issuer says that its keys are.
  returned: success
  type: str
  sample: https://10.0.0.1:6443/openid/v1/jwks
jwks:
  description: The public keys (RFC 7517).
  returned: success
  type: dict
uid:
  description: The UID of namespace C(kube-system). No two clusters have the same.
  returned: success
  type: str
  sample: 0b1f7a3e-5d4c-4e6b-9a80-2f1d3c5b7e90
"""

import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import IDENTITY_PATH, Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import ApiError, ClusterError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import cluster_module, run

_DISCOVERY = "/.well-known/openid-configuration"
_JWKS = "/openid/v1/jwks"
# What a refusal is about, and the missing right, by path.
_RIGHTS = {
    IDENTITY_PATH: (
        "its identity",
        "Grant get on the namespace kube-system, for example by a ClusterRole with"
        " {apiGroups: [''], resources: [namespaces], resourceNames: [kube-system], verbs: [get]}",
    ),
    **dict.fromkeys(
        (_DISCOVERY, _JWKS),
        (
            "its service-account issuer",
            "Bind the cluster role system:service-account-issuer-discovery to the identity that runs this module",
        ),
    ),
}
_NO_ISSUER = "The API server has no service-account issuer: set kube-apiserver's --service-account-issuer"


def _read(client: Client, path: str) -> t.Any:
    try:
        # The API server answers a JWKS to nobody who accepts application/json alone (HTTP 406).
        return client.request("get", path, accept="*/*")
    except ApiError as error:
        what, right = _RIGHTS[path]
        fix = {403: right, 404: _NO_ISSUER}.get(error.status)
        if fix is None:
            raise
        raise ClusterError(f"{client.host} does not tell {what}: {error.words}. {fix}") from error


def read(_module: t.Any, client: Client) -> dict[str, t.Any]:
    """The result. Raises ClusterError."""
    discovery, jwks, namespace = (_read(client, path) for path in (_DISCOVERY, _JWKS, IDENTITY_PATH))
    try:
        found = {"issuer": discovery["issuer"], "jwks_uri": discovery["jwks_uri"], "uid": namespace["metadata"]["uid"]}
    except (LookupError, TypeError) as error:
        raise client.unusable(f"it lacks {error}") from error
    return {"changed": False, **found, "jwks": jwks}


def main() -> None:
    run(cluster_module({}), read)


if __name__ == "__main__":
    main()
