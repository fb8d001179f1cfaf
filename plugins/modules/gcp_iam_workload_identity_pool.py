#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_iam_workload_identity_pool
short_description: Manage a Google workload identity pool
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Creates, updates, undeletes and deletes a workload identity pool, the container of providers whose tokens Google exchanges.
  - A pool that was deleted within the last 30 days is undeleted, since Google does not give its id out again before.
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - pullthrough.registry_cache.workload_identity
attributes:
  check_mode:
    description: Can run in check mode and tell what would change.
    support: full
  diff_mode:
    description: Returns the pool before and after.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
seealso:
  - module: pullthrough.registry_cache.gcp_iam_workload_identity_pool_info
  - module: pullthrough.registry_cache.gcp_iam_workload_identity_pool_provider
"""

EXAMPLES = r"""
- name: A pool for clusters
  pullthrough.registry_cache.gcp_iam_workload_identity_pool:
    project: my-project
    pool_id: registry-cache
    display_name: Image caches
"""

RETURN = r"""
pool:
  description:
    - The pool as the API returns it; its name holds the project's number.
    - In check mode what it would be, with the project as it was given.
  returned: success
  type: dict
  sample:
    name: projects/123456789012/locations/global/workloadIdentityPools/registry-cache
    displayName: Image caches
    state: ACTIVE
"""

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._gcp import (
    GcpClient,
    GcpError,
    check_lengths,
    check_project,
    gcp_module,
)
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._workload_identity import (
    LENGTHS,
    OPTIONS,
    WorkloadIdentityObject,
    check_id,
)


def main() -> None:
    module = gcp_module(OPTIONS)
    params = module.params
    try:
        check_project(params["project"])
        check_id("pool_id", params["pool_id"])
        check_lengths(params, LENGTHS)
        pool = WorkloadIdentityObject(
            GcpClient(module),
            parent=f"projects/{params['project']}/locations/global/workloadIdentityPools",
            id_parameter="workloadIdentityPoolId",
            object_id=params["pool_id"],
        )
        fields = {"displayName": "display_name", "description": "description", "disabled": "disabled"}
        wanted = {field: params[option] for field, option in fields.items() if params[option] is not None}
        changed, before, after = pool.ensure(params["state"] == "present", wanted, module.check_mode)
    except GcpError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, pool=after, diff={"before": before, "after": after})


if __name__ == "__main__":
    main()
