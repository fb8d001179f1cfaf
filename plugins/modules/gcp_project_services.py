#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_project_services
short_description: Enable Google APIs in a project
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Enables those of the APIs that are disabled, all of them or none. It sends one request to read and one to change.
  - It never disables an API, because others may use it.
  - An API that was just enabled may refuse requests for a few minutes. Set O(apis_just_enabled) in the modules that use it to wait.
  - Unlike C(google.cloud.gcp_serviceusage_service), it enables several APIs in one task, and supports check mode and timeouts.
options:
  services:
    description: Full names of the APIs, at most 20.
    type: list
    elements: str
    required: true
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - pullthrough.registry_cache.attributes
attributes:
  diff_mode:
    description: Returns the state of each API before and after.
    support: full
"""

EXAMPLES = r"""
- name: Enable the APIs for Workload Identity Federation and Artifact Registry
  pullthrough.registry_cache.gcp_project_services:
    project: my-project
    services:
      - iam.googleapis.com
      - sts.googleapis.com
      - artifactregistry.googleapis.com
"""

RETURN = r"""
services:
  description: State of each API after the run. In check mode, the expected result.
  returned: success
  type: dict
  sample:
    iam.googleapis.com: ENABLED
"""

import re
import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.client import GcpClient, GcpError, check_project
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.runner import gcp_module, run

_API = "https://serviceusage.googleapis.com/v1"
_SERVICE = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
_MAX_SERVICES = 20
_EXAMPLE = "Example: services: [iam.googleapis.com]"


def _check(params: dict[str, t.Any]) -> None:
    check_project(params["project"])
    for service in params["services"]:
        if not _SERVICE.fullmatch(service):
            raise GcpError(f"services: '{service}' must be the full name of an API. {_EXAMPLE}")
    if not 0 < len(set(params["services"])) <= _MAX_SERVICES:
        raise GcpError(f"services: 1 to {_MAX_SERVICES} are allowed (got {len(set(params['services']))}). {_EXAMPLE}")


def _states(client: GcpClient, url: str, project: str, services: list[str]) -> dict[str, str]:
    names = [f"projects/{project}/services/{service}" for service in services]
    try:
        found = client.request("GET", f"{url}:batchGet", f"services of project {project}", params={"names": names})
    except GcpError as error:
        # Google returns the same error for an unknown name and a missing permission.
        if "permission denied for service" in error.words:
            raise GcpError(
                f"services: {error.words} Check the names of the APIs, and grant serviceusage.services.get. {_EXAMPLE}"
            ) from error
        raise
    return {service["name"].rpartition("/")[2]: service.get("state", "DISABLED") for service in found.get("services", [])}


def enable(module: t.Any) -> dict[str, t.Any]:
    """Enable the APIs; return the result of the module. Raise GcpError."""
    _check(module.params)
    project, services = module.params["project"], sorted(set(module.params["services"]))
    client, url = GcpClient(module), f"{_API}/projects/{project}/services"
    before = _states(client, url, project, services)
    missing = [service for service in services if before.get(service) != "ENABLED"]
    if missing and not module.check_mode:
        what = f"{', '.join(missing)} in project {project}"
        operation = client.request("POST", f"{url}:batchEnable", what, body={"serviceIds": missing})
        client.wait(operation, _API, what)
    after = {**before, **dict.fromkeys(missing, "ENABLED")}
    return {"changed": bool(missing), "services": after, "diff": {"before": before, "after": after}}


def main() -> None:
    run(gcp_module({"services": {"type": "list", "elements": "str", "required": True}}), enable)


if __name__ == "__main__":
    main()
