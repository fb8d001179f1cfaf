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
  - Creates, updates, undeletes and deletes a workload identity pool, which contains the providers for token exchange.
  - Undeletes a pool that was deleted in the last 30 days, because Google does not allow a new pool with the same ID during that time.
options:
  made_by:
    description:
      - Description of a pool that this module creates. Later runs use it to recognize the pool.
      - A pool with another description belongs to somebody else. The module uses it unchanged. It fails if it would have to enable or
        undelete that pool. O(state=absent) does not delete it.
    type: str
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - pullthrough.registry_cache.gcp.state
  - pullthrough.registry_cache.workload_identity
  - pullthrough.registry_cache.attributes
attributes:
  diff_mode:
    description: Returns the pool before and after.
    support: full
seealso:
  - module: pullthrough.registry_cache.gcp_iam_workload_identity_pool_info
  - module: pullthrough.registry_cache.gcp_iam_workload_identity_pool_provider
"""

EXAMPLES = r"""
- name: Create a pool for clusters
  pullthrough.registry_cache.gcp_iam_workload_identity_pool:
    project: my-project
    pool_id: registry-cache
    display_name: Image caches
"""

RETURN = r"""
pool:
  description:
    - Pool as the API returns it. Its name contains the project's number.
    - In check mode, the expected result. Its name contains O(project).
  returned: success
  type: dict
  sample:
    name: projects/123456789012/locations/global/workloadIdentityPools/registry-cache
    displayName: Image caches
    state: ACTIVE
"""

import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.client import (
    GcpClient,
    GcpError,
    check_lengths,
    check_project,
)
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.resource import Outcome
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.runner import described, gcp_module, result, run
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.workload_identity import (
    LENGTHS,
    OPTIONS,
    WorkloadIdentityObject,
    check_id,
    pools_of,
)


class _Pool(WorkloadIdentityObject):
    """A workload identity pool.

    :param made_by: description of pools that the caller owns, or None to own all.
    """

    def __init__(self, *args: t.Any, made_by: str | None, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self._made_by = made_by

    def _foreign(self, current: dict[str, t.Any]) -> bool:
        return self._made_by not in (None, current.get("description", ""))

    def check(self, current: dict[str, t.Any], wanted: dict[str, t.Any]) -> None:
        enabled = current.get("disabled", False) and wanted.get("disabled") is False
        state = "deleted" if self.deleted(current) else "disabled" if enabled else ""
        if state and self._foreign(current):
            raise GcpError(
                f"pool_id: {self.name} is {state}, and belongs to somebody else, because its description is"
                f" '{current.get('description', '')}'. Choose another pool, or restore it yourself."
                " Example: pool_id: registry-cache-2"
            )

    def complete(self, current: dict[str, t.Any], wanted: dict[str, t.Any]) -> dict[str, t.Any]:
        return wanted if current or self._made_by is None else {"description": self._made_by, **wanted}

    def ensure(self, present: bool, wanted: dict[str, t.Any], check_mode: bool) -> Outcome:
        if not present and self._made_by is not None:
            found = self.read()
            if found is not None and self._foreign(found):
                return False, found, found
        return super().ensure(present, wanted, check_mode)


def ensure(module: t.Any) -> dict[str, t.Any]:
    """Bring the pool to its state; return the result of the module. Raise GcpError."""
    params = module.params
    check_project(params["project"])
    check_id("pool_id", params["pool_id"])
    check_lengths(params, LENGTHS)
    check_lengths(params, {"made_by": LENGTHS["description"]})
    pool = _Pool(
        GcpClient(module),
        parent=pools_of(params["project"]),
        id_parameter="workloadIdentityPoolId",
        object_id=params["pool_id"],
        made_by=params["made_by"],
    )
    return result("pool", pool.ensure(params["state"] == "present", described(params), module.check_mode))


def main() -> None:
    run(gcp_module({**OPTIONS, "made_by": {"type": "str"}}), ensure)


if __name__ == "__main__":
    main()
