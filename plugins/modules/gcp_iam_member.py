#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_iam_member
short_description: Grant a role on a repository, service account or project to one member
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Adds or removes one member of one role, with or without a condition, in the IAM policy of a resource.
  - The resource is a repository of Artifact Registry, a service account or a project.
  - Every other binding stays as it is. A concurrent change of the policy is noticed by its etag, and the change is made again,
    until O(wait_timeout) is over.
  - A member whose pool or service account was just created is granted the role as soon as IAM knows it.
  - A resource that does not exist grants nothing, so that O(state=absent) is content with it.
options:
  resource:
    description:
      - The resource's full name.
      - A repository is C(projects/PROJECT/locations/LOCATION/repositories/REPOSITORY).
      - A service account, as which the member may then act, is C(projects/PROJECT/serviceAccounts/EMAIL).
      - A project is C(projects/PROJECT).
    type: str
    required: true
  role:
    description: The role, such as C(roles/artifactregistry.reader).
    type: str
    required: true
  member:
    description:
      - Who gets the role, as IAM writes it.
      - Begins with C(principal://), C(principalSet://), C(serviceAccount:), C(user:), C(group:) or C(domain:), or is
        C(allUsers) or C(allAuthenticatedUsers).
      - What Google made of the member when it was deleted, such as C(deleted:serviceAccount:EMAIL?uid=NUMBER), can be removed.
    type: str
    required: true
  condition:
    description: An IAM condition. A grant with another condition, or with none, is another grant.
    type: dict
    suboptions:
      title:
        description: A short name.
        type: str
        required: true
      expression:
        description: The condition in CEL.
        type: str
        required: true
      description:
        description: What it is for.
        type: str
  state:
    description: Whether the member has the role.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - pullthrough.registry_cache.attributes
attributes:
  check_mode:
    description:
      - Can run in check mode and tell what would change.
      - A resource that does not exist is then a warning, since an earlier task may be about to make it.
    support: full
  diff_mode:
    description: Returns the binding before and after.
    support: full
seealso:
  - module: pullthrough.registry_cache.gcp_artifactregistry_repository
  - module: pullthrough.registry_cache.gcp_iam_service_account
  - module: pullthrough.registry_cache.gcp_iam_workload_identity_pool
"""

EXAMPLES = r"""
- name: Let one service account of a cluster pull
  pullthrough.registry_cache.gcp_iam_member:
    resource: projects/my-project/locations/us-central1/repositories/my-repository
    role: roles/artifactregistry.reader
    member: "principal://iam.googleapis.com/{{ pool.name }}/subject/system:serviceaccount:registry-cache:registry-cache"

- name: Let the same one act as a service account of Google
  pullthrough.registry_cache.gcp_iam_member:
    resource: projects/my-project/serviceAccounts/images@my-project.iam.gserviceaccount.com
    role: roles/iam.workloadIdentityUser
    member: "principal://iam.googleapis.com/{{ pool.name }}/subject/system:serviceaccount:registry-cache:registry-cache"

- name: Nobody outside reads every repository of the project any more
  pullthrough.registry_cache.gcp_iam_member:
    resource: projects/my-project
    role: roles/artifactregistry.reader
    member: allUsers
    state: absent
"""

RETURN = r"""
binding:
  description: The binding of that role and condition as it is afterwards; empty if there is none.
  returned: success
  type: dict
  sample:
    role: roles/artifactregistry.reader
    members:
      - user:someone@example.com
"""

import re
import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.client import GcpClient, GcpError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.iam_policy import Grant, Kind, Policy, kind_of
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.runner import STATE, gcp_module, result, run

_MEMBER = re.compile(
    r"(principal://|principalSet://|serviceAccount:|user:|group:|domain:)\S+|allUsers|allAuthenticatedUsers"
    r"|deleted:(serviceAccount|user|group):\S+\?uid=\d+|deleted:principal://\S+"
)
_ROLE = re.compile(r"((projects|organizations)/[^/]+/)?roles/[\w.]+")


def _check(params: dict[str, t.Any]) -> Kind:
    resource_kind = kind_of(params["resource"])
    if resource_kind is None:
        raise GcpError(
            f"resource '{params['resource']}' is not the full name of a repository, service account or project."
            " Example: resource: projects/my-project/locations/us-central1/repositories/my-repository"
        )
    forms = {
        "role": (_ROLE, "the name of a role", "roles/artifactregistry.reader"),
        "member": (_MEMBER, "a member as IAM writes it", "serviceAccount:name@my-project.iam.gserviceaccount.com"),
    }
    for option, (form, kind, example) in forms.items():
        if not form.fullmatch(params[option]):
            raise GcpError(f"{option} '{params[option]}' is not {kind}. Example: {option}: {example}")
    if params["member"].startswith("deleted:") and params["state"] == "present":
        raise GcpError(f"member '{params['member']}' is deleted, and can only lose a role. Set state: absent")
    # An explicit null or empty text passes Ansible's own check; without its condition a grant would be wider than asked.
    condition = params["condition"]
    if condition is not None and not (condition["title"] and condition["expression"]):
        raise GcpError(
            "condition has no title or no expression; leave it out for a grant without one."
            " Example: condition: {title: Until 2030, expression: \"request.time < timestamp('2030-01-01T00:00:00Z')\"}"
        )
    return resource_kind


def ensure(module: t.Any) -> dict[str, t.Any]:
    """The result. Raises GcpError."""
    params = module.params
    kind = _check(params)
    condition = {key: value for key, value in (params["condition"] or {}).items() if value} or None
    policy = Policy(GcpClient(module), params["resource"], kind, module.warn)
    grant = Grant(params["role"], params["member"], condition)
    return result("binding", policy.ensure(grant, params["state"] == "present", module.check_mode))


def main() -> None:
    condition = {
        "title": {"type": "str", "required": True},
        "expression": {"type": "str", "required": True},
        "description": {"type": "str"},
    }
    spec = {
        "resource": {"type": "str", "required": True},
        "role": {"type": "str", "required": True},
        "member": {"type": "str", "required": True},
        "condition": {"type": "dict", "options": condition},
    }
    run(gcp_module({**spec, **STATE}), ensure)


if __name__ == "__main__":
    main()
