#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_iam_workload_identity_pool_provider_info
short_description: Get providers of a Google workload identity pool
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Gets one provider of a workload identity pool, or all providers of any kind.
options:
  pool_id:
    description: ID of the pool.
    type: str
    required: true
  provider_id:
    description:
      - ID of the provider. If not set, all providers of the pool are returned.
      - A provider that was deleted in the last 30 days is also returned if it is named. Its C(state) is C(DELETED).
    type: str
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - pullthrough.registry_cache.workload_identity.read
  - pullthrough.registry_cache.attributes.read
seealso:
  - module: pullthrough.registry_cache.gcp_iam_workload_identity_pool_provider
"""

EXAMPLES = r"""
- name: Get the providers of a pool
  pullthrough.registry_cache.gcp_iam_workload_identity_pool_provider_info:
    project: my-project
    pool_id: registry-cache
  register: found

- name: Show the issuers of the OIDC providers
  ansible.builtin.debug:
    msg: "{{ found.providers | selectattr('oidc', 'defined') | map(attribute='oidc.issuerUri') }}"
"""

RETURN = r"""
providers:
  description:
    - Providers as the API returns them. Empty if there is none, or if the pool does not exist.
    - Their names contain the project's number.
  returned: success
  type: list
  elements: dict
  sample:
    - name: projects/123456789012/locations/global/workloadIdentityPools/registry-cache/providers/my-cluster
      state: ACTIVE
      attributeMapping:
        google.subject: assertion.sub
"""

import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.client import check_project
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.runner import gcp_module, run
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.workload_identity import (
    READ_OPTIONS,
    check_id,
    find,
    providers_of,
)

_PAGE = 100


def read(module: t.Any) -> dict[str, t.Any]:
    """Return the result of the module. Raise GcpError."""
    project, pool_id = module.params["project"], module.params["pool_id"]
    check_project(project)
    check_id("pool_id", pool_id)
    parent = providers_of(project, pool_id)
    return {"changed": False, "providers": find(module, parent, "workloadIdentityPoolProviders", "provider_id", _PAGE)}


def main() -> None:
    spec = {
        "pool_id": {"type": "str", "required": True},
        "provider_id": {"type": "str"},
        **READ_OPTIONS,
    }
    run(gcp_module(spec), read)


if __name__ == "__main__":
    main()
