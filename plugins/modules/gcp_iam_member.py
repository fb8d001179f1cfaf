#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_iam_member
short_description: Grant a role on an Artifact Registry repository to one member
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Adds or removes one member of one role, with or without a condition, in the IAM policy of a resource.
  - Only repositories of Artifact Registry are supported.
  - Every other binding stays as it is. A concurrent change of the policy is noticed by its etag, and tried again.
options:
  resource:
    description: The repository's full name, C(projects/PROJECT/locations/LOCATION/repositories/REPOSITORY).
    type: str
    required: true
  role:
    description: The role, such as C(roles/artifactregistry.reader).
    type: str
    required: true
  member:
    description:
      - Who gets the role, as IAM writes it.
      - Begins with C(principal://), C(principalSet://), C(serviceAccount:), C(user:), C(group:) or C(domain:).
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
attributes:
  check_mode:
    description: Can run in check mode and tell what would change.
    support: full
  diff_mode:
    description: Returns the binding before and after.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Let one service account of a cluster pull
  pullthrough.registry_cache.gcp_iam_member:
    resource: projects/my-project/locations/us-central1/repositories/my-repository
    role: roles/artifactregistry.reader
    member: "principal://iam.googleapis.com/{{ pool.name }}/subject/system:serviceaccount:registry-cache:registry-cache"
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

import copy
import random
import re
import time

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._gcp import (
    GcpClient,
    GcpError,
    gcp_module,
)

_API = "https://artifactregistry.googleapis.com/v1"
_REPOSITORY = re.compile(r"projects/[\w.:-]+/locations/[\w-]+/repositories/[\w-]+", re.ASCII)
_MEMBER = re.compile(r"(principal://|principalSet://|serviceAccount:|user:|group:|domain:)\S+")
_ROLE = re.compile(r"((projects|organizations)/[^/]+/)?roles/[\w.]+")
_CONFLICT_RETRIES = 5


def _check(params):
    forms = {
        "resource": (
            _REPOSITORY,
            "an Artifact Registry repository, the one kind supported",
            "projects/my-project/locations/us-central1/repositories/my-repository",
        ),
        "role": (_ROLE, "the name of a role", "roles/artifactregistry.reader"),
        "member": (_MEMBER, "a member as IAM writes it", "serviceAccount:name@my-project.iam.gserviceaccount.com"),
    }
    for option, (form, kind, example) in forms.items():
        if not form.fullmatch(params[option]):
            raise GcpError(f"{option} '{params[option]}' is not {kind}. Example: {option}: {example}")
    # An explicit null or empty text passes Ansible's own check; without its condition a grant would be wider than asked.
    condition = params["condition"]
    if condition is not None and not (condition["title"] and condition["expression"]):
        raise GcpError(
            "condition has no title or no expression; leave it out for a grant without one."
            " Example: condition: {title: Until 2030, expression: \"request.time < timestamp('2030-01-01T00:00:00Z')\"}"
        )


def _normal(member):
    """IAM answers with e-mail addresses and domains in lower case; a principal's case counts."""
    kind, separator, name = member.partition(":")
    return member if kind in ("principal", "principalSet") else kind + separator + name.lower()


def _holds(binding, member):
    return binding is not None and _normal(member) in map(_normal, binding["members"])


def _find(policy, role, condition):
    for binding in policy.get("bindings", []):
        if binding["role"] == role and binding.get("condition") == condition:
            return binding
    return None


def _changed_policy(policy, role, member, condition, present):
    """A policy in which only that member of that role and condition differs."""
    policy = copy.deepcopy(policy)
    bindings = policy.setdefault("bindings", [])
    binding = _find(policy, role, condition)
    if present and binding is None:
        bindings.append({"role": role, "members": [member], **({"condition": condition} if condition else {})})
    elif present:
        binding["members"].append(member)
    else:
        binding["members"] = [other for other in binding["members"] if _normal(other) != _normal(member)]
        if not binding["members"]:
            bindings.remove(binding)
    if condition:
        policy["version"] = 3  # the only version that holds conditions
    return policy


def _apply(client, params, check_mode):
    """Read, modify, write with the etag; again when somebody else wrote in between."""
    resource, role, member = params["resource"], params["role"], params["member"]
    condition = {key: value for key, value in (params["condition"] or {}).items() if value} or None
    present = params["state"] == "present"
    what = f"IAM policy of {resource}"
    attempt = 0
    while True:
        version = {"options.requestedPolicyVersion": 3}
        policy = client.request("GET", f"{_API}/{resource}:getIamPolicy", what, params=version)
        before = _find(policy, role, condition)
        if _holds(before, member) == present:
            return False, before, before
        wanted = _changed_policy(policy, role, member, condition, present)
        if check_mode:
            return True, before, _find(wanted, role, condition)
        try:
            policy = client.request("POST", f"{_API}/{resource}:setIamPolicy", what, body={"policy": wanted})
            return True, before, _find(policy, role, condition)
        except GcpError as error:
            if error.status != 409 or attempt == _CONFLICT_RETRIES:
                raise
            time.sleep(random.uniform(0, 0.5 * 2**attempt))
            attempt += 1


def main():
    module = gcp_module(
        {
            "resource": {"type": "str", "required": True},
            "role": {"type": "str", "required": True},
            "member": {"type": "str", "required": True},
            "condition": {
                "type": "dict",
                "options": {
                    "title": {"type": "str", "required": True},
                    "expression": {"type": "str", "required": True},
                    "description": {"type": "str"},
                },
            },
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        }
    )
    try:
        _check(module.params)
        changed, before, after = _apply(GcpClient(module), module.params, module.check_mode)
    except GcpError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, binding=after or {}, diff={"before": before or {}, "after": after or {}})


if __name__ == "__main__":
    main()
