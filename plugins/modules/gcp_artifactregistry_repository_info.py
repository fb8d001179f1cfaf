#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_artifactregistry_repository_info
short_description: Get repositories of Google Artifact Registry
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Gets one repository, or all repositories of a project in a location, with any format and mode.
options:
  location:
    description: Region or multi-region, such as V(us-central1) or V(europe).
    type: str
    required: true
  repository_id:
    description: ID of the repository. If not set, all repositories of the location are returned.
    type: str
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - pullthrough.registry_cache.attributes.read
seealso:
  - module: pullthrough.registry_cache.gcp_artifactregistry_repository
"""

EXAMPLES = r"""
- name: Get all repositories of a region
  pullthrough.registry_cache.gcp_artifactregistry_repository_info:
    project: my-project
    location: us-central1
  register: found

- name: Show the addresses for pulls
  ansible.builtin.debug:
    msg: "{{ found.repositories | selectattr('format', 'eq', 'DOCKER') | map(attribute='registryUri') }}"
"""

RETURN = r"""
repositories:
  description: Repositories as the API returns them. Empty if there is none.
  returned: success
  type: list
  elements: dict
  sample:
    - name: projects/my-project/locations/us-central1/repositories/my-images
      format: DOCKER
      mode: STANDARD_REPOSITORY
"""

import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.artifact_registry import (
    API,
    check_location,
    check_repository_id,
)
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.client import GcpClient, check_project
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.runner import gcp_module, run

_PAGE = 1000


def read(module: t.Any) -> dict[str, t.Any]:
    """Return the result of the module. Raise GcpError."""
    project, location, repository_id = (module.params[key] for key in ("project", "location", "repository_id"))
    check_project(project)
    check_location(location)
    if repository_id is not None:
        check_repository_id(repository_id, location)
    parent = f"projects/{project}/locations/{location}/repositories"
    return {"changed": False, "repositories": GcpClient(module).find(API, parent, "repositories", repository_id, _PAGE)}


def main() -> None:
    run(gcp_module({"location": {"type": "str", "required": True}, "repository_id": {"type": "str"}}), read)


if __name__ == "__main__":
    main()
