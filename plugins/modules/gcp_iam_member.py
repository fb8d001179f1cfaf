#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_iam_member
short_description: Grant a role on repositories, service accounts or projects to one member
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Adds or removes one member of one role, with or without a condition, in the IAM policy of each resource.
  - A resource is a repository of Artifact Registry, a service account or a project.
  - Every other binding stays as it is. A concurrent change of the policy is noticed by its etag, and the change is made again,
    until O(wait_timeout) is over.
  - A member whose pool or service account was just created is granted the role as soon as IAM knows it.
  - A resource that does not exist grants nothing, so that O(state=absent) is content with it.
options:
  resources:
    description:
      - The full names of the resources. They are changed in this order.
      - A repository is C(projects/PROJECT/locations/LOCATION/repositories/REPOSITORY).
      - A service account, as which the member may then act, is C(projects/PROJECT/serviceAccounts/EMAIL).
      - A project is C(projects/PROJECT).
    type: list
    elements: str
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
    description: Returns each binding that differs, before and after.
    support: full
seealso:
  - module: pullthrough.registry_cache.gcp_artifactregistry_repository
  - module: pullthrough.registry_cache.gcp_iam_service_account
  - module: pullthrough.registry_cache.gcp_iam_workload_identity_pool
"""

EXAMPLES = r"""
- name: Let one service account of a cluster pull
  pullthrough.registry_cache.gcp_iam_member:
    resources:
      - projects/my-project/locations/us-central1/repositories/my-repository
      - projects/my-project/locations/us-central1/repositories/my-other-repository
    role: roles/artifactregistry.reader
    member: "principal://iam.googleapis.com/{{ pool.name }}/subject/system:serviceaccount:registry-cache:registry-cache"

- name: Let the same one act as a service account of Google
  pullthrough.registry_cache.gcp_iam_member:
    resources: [projects/my-project/serviceAccounts/images@my-project.iam.gserviceaccount.com]
    role: roles/iam.workloadIdentityUser
    member: "principal://iam.googleapis.com/{{ pool.name }}/subject/system:serviceaccount:registry-cache:registry-cache"

- name: Nobody outside reads every repository of the project any more
  pullthrough.registry_cache.gcp_iam_member:
    resources: [projects/my-project]
    role: roles/artifactregistry.reader
    member: allUsers
    state: absent
"""

RETURN = r"""
bindings:
  description:
    - The binding of that role and condition as it is afterwards, by resource. It is empty if there is none.
    - After a failure, those of the resources before the one that failed.
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
            f"resources: '{resource}' is not the full name of a repository, service account or project."
            " Example: resources: [projects/my-project/locations/us-central1/repositories/my-repository]"
        )
    return kind


def _check(params: dict[str, t.Any]) -> None:
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


def ensure(module: t.Any) -> dict[str, t.Any]:
    """The result. Raises GcpError if nothing was changed; fails the module if something was."""
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
