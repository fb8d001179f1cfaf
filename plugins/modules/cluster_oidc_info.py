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
requirements:
  - kubernetes
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Reads only.
    support: none
  idempotent:
    description: Reads only.
    support: full
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

import json
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import IDENTITY_PATH, get_api_client

try:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError, MaxRetryError
except ImportError:  # AnsibleK8SModule says that it is missing

    class ApiException(Exception):  # type: ignore[no-redef]
        pass

    class HTTPError(Exception):  # type: ignore[no-redef]
        pass

    MaxRetryError = HTTPError

# Seconds to connect and to wait for an answer.
_TIMEOUT = (10, 60)
_WAY_OUT = "Set kubeconfig and context, or KUBECONFIG, to a cluster that answers"
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


def _read(client: t.Any, path: str) -> t.Any:
    # The API server answers a JWKS to nobody who accepts application/json alone (HTTP 406).
    answer = client.request("get", path, header_params={"Accept": "*/*"}, serialize=False, _request_timeout=_TIMEOUT)
    return json.loads(answer.data)


def _refusal(error: t.Any) -> str:
    """The API server's own message, or what the client made of it."""
    try:
        return json.loads(error.body)["message"]
    except (ValueError, LookupError, TypeError):
        return error.reason


def _main_cause(error: t.Any) -> str:
    """The URL that was tried and what came of it."""
    if isinstance(error, MaxRetryError):
        return f"{error.pool.scheme}://{error.pool.host}:{error.pool.port}{error.url} ({error.reason})"
    return str(error)


def main() -> None:
    module = AnsibleK8SModule(
        module_class=AnsibleModule, argument_spec=AUTH_ARG_SPEC, supports_check_mode=True, check_pyyaml=False
    )
    host, path = "the cluster", _DISCOVERY
    try:
        client = get_api_client(module).client  # asks for /version already
        host = client.configuration.host
        discovery = _read(client, path)
        path = _JWKS
        jwks = _read(client, path)
        path = IDENTITY_PATH
        uid = _read(client, path)["metadata"]["uid"]
        result = {"issuer": discovery["issuer"], "jwks_uri": discovery["jwks_uri"], "jwks": jwks, "uid": uid}
    except CoreException as error:
        module.fail_json(msg=f"No way to the cluster: {error}. {_WAY_OUT}.")
    except ApiException as error:
        what, right = _RIGHTS[path]
        way_out = {
            403: right,
            404: "The API server has no service-account issuer: set kube-apiserver's --service-account-issuer",
        }
        status = f"HTTP {error.status}: " if error.status else ""  # without one, TLS failed
        module.fail_json(
            msg=f"{host} does not tell {what}: {status}{_refusal(error)}."
            f" {way_out.get(error.status, _WAY_OUT)}."
        )
    except (HTTPError, OSError, ValueError, LookupError, TypeError) as error:
        module.fail_json(msg=f"No usable answer from the API server: {_main_cause(error)}. {_WAY_OUT}.")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
