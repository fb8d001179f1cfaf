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
  - Creates, updates, enables, disables and deletes a service account. It makes no keys.
  - An account that is made again after its deletion is another one; grants to the old one do not come back.
  - Beside C(google.cloud.gcp_iam_service_account), which has no check mode and no time-outs, and cannot disable an account.
options:
  account_id:
    description: What its address begins with, 6 to 30 of C(a-z), C(0-9) and C(-), beginning with a letter.
    type: str
    required: true
  display_name:
    description: A name to show, of at most 100 bytes in UTF-8. Left as it is if unset.
    type: str
  description:
    description: A text of at most 256 bytes in UTF-8. Left as it is if unset.
    type: str
  disabled:
    description: Whether it is disabled, so that nobody can act as it. Left as it is if unset.
    type: bool
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - pullthrough.registry_cache.gcp.state
  - pullthrough.registry_cache.attributes
notes:
  - O(project) must be the project's id, which is part of the account's address; its number does not do.
attributes:
  diff_mode:
    description: Returns the account before and after.
    support: full
seealso:
  - module: pullthrough.registry_cache.gcp_iam_member
"""

EXAMPLES = r"""
- name: An account that reads images
  pullthrough.registry_cache.gcp_iam_service_account:
    project: my-project
    account_id: image-reader
    display_name: Reads images
  register: reader

- name: Let it read
  pullthrough.registry_cache.gcp_iam_member:
    resources:
      - projects/my-project/locations/us-central1/repositories/my-images
    role: roles/artifactregistry.reader
    member: "serviceAccount:{{ reader.service_account.email }}"
"""

RETURN = r"""
service_account:
  description: The account as the API returns it, in check mode what it would be.
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
# Bytes in UTF-8 that Google takes, by option (the IAM v1 discovery document).
_BYTES = {"display_name": 100, "description": 256}


def _check(params: dict[str, t.Any]) -> None:
    check_project(params["project"])
    if params["project"].isdigit():
        raise GcpError(
            f"project '{params['project']}' is a number, and an account's address holds the project's id."
            " Example: project: my-project"
        )
    if not _ID.fullmatch(params["account_id"]):
        raise GcpError(
            f"account_id '{params['account_id']}' is not an id that Google takes: 6 to 30 of a-z, 0-9 and '-', the first a letter,"
            " the last no '-'. Example: account_id: image-reader"
        )
    check_bytes(params, _BYTES)


def ensure(module: t.Any) -> dict[str, t.Any]:
    """The result. Raises GcpError."""
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
