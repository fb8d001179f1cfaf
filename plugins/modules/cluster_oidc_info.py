#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_oidc_info
short_description: Read a cluster's service-account issuer and its public keys
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Reads what a Kubernetes API server says of the service-account tokens that it signs.
  - Asks the API server itself, so that it works for clusters whose issuer nobody else can reach.
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
notes:
  - The caller needs C(get) on the non-resource URLs C(/.well-known/openid-configuration) and C(/openid/v1/jwks),
    as the cluster role C(system:service-account-issuer-discovery) grants it.
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
"""

import json
import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
    from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
    from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
    from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError
except ImportError:
    IMPORT_ERROR = traceback.format_exc()
else:
    IMPORT_ERROR = None


def _read(client, path):
    # The API server answers a JWKS to nobody who accepts application/json alone (HTTP 406).
    answer = client.request("get", path, header_params={"Accept": "*/*"}, serialize=False)
    return json.loads(answer.data)


def main():
    if IMPORT_ERROR:
        AnsibleModule(argument_spec={}).fail_json(
            msg=missing_required_lib("kubernetes and the collection kubernetes.core"), exception=IMPORT_ERROR
        )
    module = AnsibleK8SModule(
        module_class=AnsibleModule, argument_spec=AUTH_ARG_SPEC, supports_check_mode=True, check_pyyaml=False
    )
    try:
        client = get_api_client(module).client
    except CoreException as error:
        module.fail_json(msg=f"No way to the cluster: {error}. Set kubeconfig and context, or KUBECONFIG.")
    host = client.configuration.host
    try:
        discovery = _read(client, "/.well-known/openid-configuration")
        jwks = _read(client, "/openid/v1/jwks")
    except ApiException as error:
        module.fail_json(
            msg=f"{host} does not tell its service-account issuer: HTTP {error.status} {error.reason}. Bind the cluster role"
            " system:service-account-issuer-discovery to the identity that runs this module."
        )
    except (HTTPError, OSError, ValueError) as error:
        module.fail_json(msg=f"No usable answer from the API server {host}: {error}. Set kubeconfig and context, or KUBECONFIG.")
    module.exit_json(changed=False, issuer=discovery["issuer"], jwks_uri=discovery["jwks_uri"], jwks=jwks)


if __name__ == "__main__":
    main()
