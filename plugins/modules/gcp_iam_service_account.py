#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_iam_service_account
short_description: Manage a Google service account
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Creates, updates, enables, disables and deletes a service account. It does not create keys.
  - If an account is deleted and created again, it is a new account. Grants to the old account do not apply to it.
  - Unlike C(google.cloud.gcp_iam_service_account), it supports check mode and timeouts, and it can disable an account.
options:
  account_id:
    description: ID of the account, the first part of its email address. It has 6 to 30 characters (C(a-z), C(0-9), C(-)), and begins with a
      letter.
    type: str
    required: true
  display_name:
    description: Display name, with at most 100 bytes in UTF-8. If not set, the existing one is kept.
    type: str
  description:
    description: Description, with at most 256 bytes in UTF-8. If not set, the existing one is kept.
    type: str
  disabled:
    description: Whether the account is disabled, so that nobody can use it. If not set, the existing state is kept.
    type: bool
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - pullthrough.registry_cache.gcp.state
  - pullthrough.registry_cache.attributes
notes:
  - O(project) must be the project's ID, which is part of the account's email address. The project's number is not accepted.
attributes:
  diff_mode:
    description: Returns the account before and after.
    support: full
seealso:
  - module: pullthrough.registry_cache.gcp_iam_member
"""

EXAMPLES = r"""
- name: Create a service account that reads images
  pullthrough.registry_cache.gcp_iam_service_account:
    project: my-project
    account_id: image-reader
    display_name: Reads images
  register: reader

- name: Grant it read access
  pullthrough.registry_cache.gcp_iam_member:
    resources:
      - projects/my-project/locations/us-central1/repositories/my-images
    role: roles/artifactregistry.reader
    member: "serviceAccount:{{ reader.service_account.email }}"
"""

RETURN = r"""
service_account:
  description: Service account as the API returns it. In check mode, the expected result.
  returned: success
  type: dict
  sample:
    name: projects/my-project/serviceAccounts/image-reader@my-project.iam.gserviceaccount.com
    email: image-reader@my-project.iam.gserviceaccount.com
    projectId: my-project
    uniqueId: "123456789012345678901"
    displayName: Reads images
"""

import re
import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.client import (
    GcpClient,
    GcpError,
    check_bytes,
    check_project,
)
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.runner import STATE, described, gcp_module, result, run
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.service_account import ServiceAccount

_ID = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
# Maximum length in bytes in UTF-8, by option (IAM v1 discovery document).
_BYTES = {"display_name": 100, "description": 256}


def _check(params: dict[str, t.Any]) -> None:
    check_project(params["project"])
    if params["project"].isdigit():
        raise GcpError(
            f"project: must be the project's ID, which is part of the account's email address (got the number '{params['project']}')."
            " Example: project: my-project"
        )
    if not _ID.fullmatch(params["account_id"]):
        raise GcpError(
            f"account_id: must have 6 to 30 characters (a-z, 0-9, '-'), begin with a letter and not end with '-' (got"
            f" '{params['account_id']}'). Example: account_id: image-reader"
        )
    check_bytes(params, _BYTES)


def ensure(module: t.Any) -> dict[str, t.Any]:
    """Bring the account to its state; return the result of the module. Raise GcpError."""
    params = module.params
    _check(params)
    account = ServiceAccount(GcpClient(module), params["project"], params["account_id"])
    return result("service_account", account.ensure(params["state"] == "present", described(params), module.check_mode))


def main() -> None:
    spec = {
        "account_id": {"type": "str", "required": True},
        "display_name": {"type": "str"},
        "description": {"type": "str"},
        "disabled": {"type": "bool"},
    }
    run(gcp_module({**spec, **STATE}), ensure)


if __name__ == "__main__":
    main()
