#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_iam_member
short_description: Grant one IAM role to one member
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Adds or removes one member of one role, with or without a condition, in the IAM policy of each resource.
  - A resource is an Artifact Registry repository, a service account or a project.
  - All other bindings are kept. The module detects concurrent changes of the policy by its etag, and retries until O(wait_timeout) has
    passed.
  - If the member's pool or service account was just created, the module retries until IAM knows it.
  - With O(state=absent), a resource that does not exist is not an error, because it grants nothing.
options:
  resources:
    description:
      - Full names of the resources, in the order in which they are changed.
      - A repository is C(projects/PROJECT/locations/LOCATION/repositories/REPOSITORY).
      - A service account is C(projects/PROJECT/serviceAccounts/EMAIL). With a suitable role, the member can impersonate it.
      - A project is C(projects/PROJECT).
    type: list
    elements: str
    required: true
  role:
    description: Role to grant, such as V(roles/artifactregistry.reader).
    type: str
    required: true
  member:
    description:
      - Member that gets the role, in the format of IAM.
      - It begins with C(principal://), C(principalSet://), C(serviceAccount:), C(user:), C(group:) or C(domain:), or it is
        V(allUsers) or V(allAuthenticatedUsers).
      - A deleted member, such as C(deleted:serviceAccount:EMAIL?uid=NUMBER), can only be removed.
    type: str
    required: true
  condition:
    description: IAM condition of the grant. A grant with another condition, or with none, is a different grant.
    type: dict
    suboptions:
      title:
        description: Short name of the condition.
        type: str
        required: true
      expression:
        description: Condition as a CEL expression.
        type: str
        required: true
      description:
        description: Purpose of the condition.
        type: str
  state:
    description: Whether the member must have the role.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - pullthrough.registry_cache.attributes
attributes:
  check_mode:
    description:
      - Reports what would change, and changes nothing.
      - A resource that does not exist causes only a warning, because an earlier task may be about to create it.
    support: full
  diff_mode:
    description: Returns each binding that changes, before and after.
    support: full
seealso:
  - module: pullthrough.registry_cache.gcp_artifactregistry_repository
  - module: pullthrough.registry_cache.gcp_iam_service_account
  - module: pullthrough.registry_cache.gcp_iam_workload_identity_pool
"""

EXAMPLES = r"""
- name: Allow one Kubernetes service account to pull images
  pullthrough.registry_cache.gcp_iam_member:
    resources:
      - projects/my-project/locations/us-central1/repositories/my-repository
      - projects/my-project/locations/us-central1/repositories/my-other-repository
    role: roles/artifactregistry.reader
    member: "principal://iam.googleapis.com/{{ pool.name }}/subject/system:serviceaccount:registry-cache:registry-cache"

- name: Allow the same account to impersonate a Google service account
  pullthrough.registry_cache.gcp_iam_member:
    resources: [projects/my-project/serviceAccounts/images@my-project.iam.gserviceaccount.com]
    role: roles/iam.workloadIdentityUser
    member: "principal://iam.googleapis.com/{{ pool.name }}/subject/system:serviceaccount:registry-cache:registry-cache"

- name: Remove public read access to all repositories of a project
  pullthrough.registry_cache.gcp_iam_member:
    resources: [projects/my-project]
    role: roles/artifactregistry.reader
    member: allUsers
    state: absent
"""

RETURN = r"""
bindings:
  description:
    - Binding of this role and condition after the run, by resource. It is empty if there is none.
    - After a failure, it contains only the resources before the one that failed.
  returned: success, and failure after a change
  type: dict
  sample:
    projects/my-project:
      role: roles/artifactregistry.reader
      members:
        - user:someone@example.com
"""

import re
import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.client import GcpClient, GcpError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.iam_policy import Grant, Kind, Policy, kind_of
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.runner import STATE, gcp_module, run

_MEMBER = re.compile(
    r"(principal://|principalSet://|serviceAccount:|user:|group:|domain:)\S+|allUsers|allAuthenticatedUsers"
    r"|deleted:(serviceAccount|user|group):\S+\?uid=\d+|deleted:principal://\S+"
)
_ROLE = re.compile(r"((projects|organizations)/[^/]+/)?roles/[\w.]+")


def _kind(resource: str) -> Kind:
    kind = kind_of(resource)
    if kind is None:
        raise GcpError(
            f"resources: '{resource}' must be the full name of a repository, service account or project."
            " Example: resources: [projects/my-project/locations/us-central1/repositories/my-repository]"
        )
    return kind


def _check(params: dict[str, t.Any]) -> None:
    forms = {
        "role": (_ROLE, "the full name of a role", "roles/artifactregistry.reader"),
        "member": (_MEMBER, "a member in the format of IAM", "serviceAccount:name@my-project.iam.gserviceaccount.com"),
    }
    for option, (form, kind, example) in forms.items():
        if not form.fullmatch(params[option]):
            raise GcpError(f"{option}: must be {kind} (got '{params[option]}'). Example: {option}: {example}")
    if params["member"].startswith("deleted:") and params["state"] == "present":
        raise GcpError(f"member: '{params['member']}' is deleted, so its roles can only be removed. Example: state: absent")
    # Ansible accepts an explicit null or empty text. Without its condition, the grant would be too wide.
    condition = params["condition"]
    if condition is not None and not (condition["title"] and condition["expression"]):
        raise GcpError(
            "condition: it needs a title and an expression. Set both, or remove condition for a grant without one."
            " Example: condition: {title: Until 2030, expression: \"request.time < timestamp('2030-01-01T00:00:00Z')\"}"
        )


def ensure(module: t.Any) -> dict[str, t.Any]:
    """Change the policies; return the result. Raise GcpError if nothing was changed, otherwise fail the module."""
    params, present = module.params, module.params["state"] == "present"
    _check(params)
    kinds = {resource: _kind(resource) for resource in params["resources"]}
    condition = {key: value for key, value in (params["condition"] or {}).items() if value} or None
    client, grant = GcpClient(module), Grant(params["role"], params["member"], condition)
    bindings: dict[str, t.Any] = {}
    diff: list[dict[str, t.Any]] = []
    for resource, kind in kinds.items():
        try:
            changed, before, after = Policy(client, resource, kind, module.warn).ensure(grant, present, module.check_mode)
        except GcpError as error:
            if diff and not module.check_mode:
                done = ", ".join(one["after_header"] for one in diff)
                module.fail_json(msg=f"{str(error).rstrip('.')}. Changed before: {done}.", changed=True, bindings=bindings, diff=diff)
            raise
        bindings[resource] = after
        if changed:
            diff.append({"before_header": resource, "after_header": resource, "before": before, "after": after})
    return {"changed": bool(diff), "bindings": bindings, "diff": diff}


def main() -> None:
    condition = {
        "title": {"type": "str", "required": True},
        "expression": {"type": "str", "required": True},
        "description": {"type": "str"},
    }
    spec = {
        "resources": {"type": "list", "elements": "str", "required": True},
        "role": {"type": "str", "required": True},
        "member": {"type": "str", "required": True},
        "condition": {"type": "dict", "options": condition},
    }
    run(gcp_module({**spec, **STATE}), ensure)


if __name__ == "__main__":
    main()
