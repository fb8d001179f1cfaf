#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_iam_workload_identity_pool_info
short_description: Get Google workload identity pools
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Gets one workload identity pool, or all pools of a project.
options:
  pool_id:
    description:
      - ID of the pool. If not set, all pools are returned.
      - A pool that was deleted in the last 30 days is also returned if it is named. Its C(state) is C(DELETED).
    type: str
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - pullthrough.registry_cache.workload_identity.read
  - pullthrough.registry_cache.attributes.read
seealso:
  - module: pullthrough.registry_cache.gcp_iam_workload_identity_pool
"""

EXAMPLES = r"""
- name: Get all pools of a project
  pullthrough.registry_cache.gcp_iam_workload_identity_pool_info:
    project: my-project
  register: found

- name: Show their names
  ansible.builtin.debug:
    msg: "{{ found.pools | map(attribute='name') }}"
"""

RETURN = r"""
pools:
  description: Pools as the API returns them. Empty if there is none. Their names contain the project's number.
  returned: success
  type: list
  elements: dict
  sample:
    - name: projects/123456789012/locations/global/workloadIdentityPools/registry-cache
      displayName: Image caches
      state: ACTIVE
"""

import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.client import check_project
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.runner import gcp_module, run
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.workload_identity import READ_OPTIONS, find, pools_of

_PAGE = 1000


def read(module: t.Any) -> dict[str, t.Any]:
    """Return the result of the module. Raise GcpError."""
    project = module.params["project"]
    check_project(project)
    return {"changed": False, "pools": find(module, pools_of(project), "workloadIdentityPools", "pool_id", _PAGE)}


def main() -> None:
    run(gcp_module({"pool_id": {"type": "str"}, **READ_OPTIONS}), read)


if __name__ == "__main__":
    main()
