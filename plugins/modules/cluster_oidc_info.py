#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_oidc_info
short_description: Get the identity, OIDC issuer and public keys of a cluster
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Reads the OIDC discovery document of a Kubernetes API server, and the public keys for the service account tokens that it signs.
  - Asks the API server directly, so it also works if the cluster's issuer cannot be reached from outside.
  - Reads the UID of namespace C(kube-system), which identifies the cluster during its whole life.
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.attributes.read
requirements:
  - kubernetes
notes:
  - The caller needs the permission C(get) on the non-resource URLs C(/.well-known/openid-configuration) and C(/openid/v1/jwks), as in
    cluster role C(system:service-account-issuer-discovery), and C(get) on namespace C(kube-system).
"""

EXAMPLES = r"""
- name: Get the public keys of the cluster
  pullthrough.registry_cache.cluster_oidc_info:
    context: my-cluster
  register: cluster
"""

RETURN = r"""
issuer:
  description: Issuer of the tokens.
  returned: success
  type: str
  sample: https://kubernetes.default.svc.cluster.local
jwks_uri:
  description: URL of the public keys according to the issuer.
  returned: success
  type: str
  sample: https://10.0.0.1:6443/openid/v1/jwks
jwks:
  description: Public keys of the cluster (RFC 7517).
  returned: success
  type: dict
uid:
  description: UID of namespace C(kube-system). It is different for each cluster.
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
# By path: what could not be read, and the fix.
_RIGHTS = {
    IDENTITY_PATH: (
        "its identity",
        "Grant get on namespace kube-system. Example: a ClusterRole with the rule"
        " {apiGroups: [''], resources: [namespaces], resourceNames: [kube-system], verbs: [get]}",
    ),
    **dict.fromkeys(
        (_DISCOVERY, _JWKS),
        (
            "its service account issuer",
            "Bind cluster role system:service-account-issuer-discovery to the identity that runs this module. Example: kubectl create"
            " clusterrolebinding registry-cache-oidc --clusterrole system:service-account-issuer-discovery --user USER",
        ),
    ),
}
_NO_ISSUER = (
    "The API server has no service account issuer. Set one in kube-apiserver."
    " Example: --service-account-issuer=https://kubernetes.default.svc.cluster.local"
)


def _read(client: Client, path: str) -> t.Any:
    try:
        # The API server answers HTTP 406 for a JWKS if a client accepts only application/json.
        return client.request("get", path, accept="*/*")
    except ApiError as error:
        what, right = _RIGHTS[path]
        fix = {403: right, 404: _NO_ISSUER}.get(error.status)
        if fix is None:
            raise
        raise ClusterError(f"{client.host} does not return {what}: {error.words}. {fix}") from error


def read(_module: t.Any, client: Client) -> dict[str, t.Any]:
    """Return the result of the module. Raise ClusterError."""
    discovery, jwks, namespace = (_read(client, path) for path in (_DISCOVERY, _JWKS, IDENTITY_PATH))
    try:
        found = {"issuer": discovery["issuer"], "jwks_uri": discovery["jwks_uri"], "uid": namespace["metadata"]["uid"]}
    except (LookupError, TypeError) as error:
        raise client.unusable(f"{error} is missing in the answer") from error
    return {"changed": False, **found, "jwks": jwks}


def main() -> None:
    run(cluster_module({}), read)


if __name__ == "__main__":
    main()
