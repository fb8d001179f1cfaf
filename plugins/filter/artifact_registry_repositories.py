# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: artifact_registry_repositories
short_description: List the Artifact Registry repositories of upstreams
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Returns the repositories on which role P(pullthrough.registry_cache.wif#role) grants the cache read access.
options:
  _input:
    description:
      - Upstreams, each with C(host) and C(repositories).
      - For a host C(LOCATION-docker.pkg.dev), a repository is C(project/repository).
      - For C(gcr.io), C(us.gcr.io), C(eu.gcr.io) and C(asia.gcr.io), it is only the project. The images are in the Artifact Registry
        repository with the name of the host.
      - A domain-scoped project is written C(example.com:project) or C(example.com/project).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the full names of the repositories
  ansible.builtin.debug:
    msg: "{{ upstreams | pullthrough.registry_cache.artifact_registry_repositories | map(attribute='name') }}"
"""

RETURN = r"""
_value:
  description: Repositories, each with C(project), C(location), C(id) and the full C(name).
  type: list
  elements: dict
  sample:
    - project: my-project
      location: us
      id: gcr.io
      name: projects/my-project/locations/us/repositories/gcr.io
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google import upstream_repositories


def artifact_registry_repositories(upstreams: list[dict[str, t.Any]]) -> list[dict[str, str]]:
    try:
        return upstream_repositories.repositories(upstreams)
    except ValueError as error:
        raise AnsibleFilterError(f"artifact_registry_repositories: {error}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"artifact_registry_repositories": artifact_registry_repositories}
