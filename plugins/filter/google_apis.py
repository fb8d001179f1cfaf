# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: google_apis
short_description: List the Google APIs that a cache needs in each project
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Returns the APIs that role P(pullthrough.registry_cache.wif#role) enables, for M(pullthrough.registry_cache.gcp_project_services).
options:
  _input:
    description: Repositories, as returned by P(pullthrough.registry_cache.artifact_registry_repositories#filter).
    type: list
    elements: dict
    required: true
  pool_project:
    description: Project that contains the workload identity pool.
    type: str
    required: true
  impersonation:
    description: Whether the cache impersonates a Google service account.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Enable the APIs
  pullthrough.registry_cache.gcp_project_services:
    project: "{{ item.project }}"
    services: "{{ item.services }}"
  loop: "{{ registry_cache_upstreams | pullthrough.registry_cache.artifact_registry_repositories
    | pullthrough.registry_cache.google_apis('my-project') }}"
"""

RETURN = r"""
_value:
  description: Projects, each with C(project) and C(services). The pool's project comes first.
  type: list
  elements: dict
  sample:
    - project: my-project
      services: [iam.googleapis.com, sts.googleapis.com, artifactregistry.googleapis.com]
"""

import typing as t


def google_apis(repositories: list[dict[str, str]], pool_project: str, impersonation: bool = False) -> list[dict[str, t.Any]]:
    apis = {pool_project: ["iam.googleapis.com", "sts.googleapis.com"]}
    if impersonation:
        apis[pool_project].append("iamcredentials.googleapis.com")
    for project in dict.fromkeys(repository["project"] for repository in repositories):
        apis.setdefault(project, []).append("artifactregistry.googleapis.com")
    return [{"project": project, "services": services} for project, services in apis.items()]


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"google_apis": google_apis}
