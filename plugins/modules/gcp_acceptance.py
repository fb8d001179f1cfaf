#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_acceptance
short_description: Compare Google APIs with the assumptions of this collection
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Creates a workload identity pool with two providers, a repository with an image of a few hundred bytes, and a service account, all
    named O(name). Compares the answers of the Google APIs with O(assumptions).
  - It runs for up to half an hour, because grants at Google take some time.
  - Playbook C(acceptance.yml) runs it and removes everything afterwards.
options:
  name:
    description:
      - Name of all objects that are created and removed. It is C(rc-acceptance-) with 1 to 16 more characters (C(a-z), C(0-9)).
      - For O(step=ask), the cluster must have a namespace with this name, and in it the service accounts C(NAME) and C(NAME-other).
    type: str
    required: true
  location:
    description: Location of the repository.
    type: str
    default: us-central1
  step:
    description:
      - V(ask) creates the objects and runs the comparison. The objects stay, so run V(clean) afterwards, even if V(ask) fails.
      - V(clean) removes the objects. It does not need the cluster.
    type: str
    choices: [ask, clean]
    default: ask
  issuer_uri:
    description: Issuer of the cluster's tokens. Required with O(step=ask).
    type: str
  jwks:
    description: Public keys of the cluster's tokens (RFC 7517). Required with O(step=ask).
    type: dict
  assumptions:
    description:
      - Expected answers of Google, by the ID of a question. Each has C(asked), a text, and C(expected). Required with O(step=ask).
      - For an expected mapping, other keys of the answer are ignored. An expected text that ends with C(…) matches any continuation. An
        expected mapping with the keys C(min) and C(max) is a range of numbers. C(PROJECT), C(NUMBER), C(NAME), C(LOCATION) and C(ISSUER)
        stand for the values of the run.
    type: dict
  made:
    description: With O(step=clean), kinds of objects to remove. Objects that do not exist are ignored.
    type: list
    elements: str
    choices: [account, pool, repository]
    default: [account, pool, repository]
  wait_timeout:
    description:
      - Maximum time, in seconds, to wait for each change at Google. For other modules, it is the time for all requests together.
      - A request that Google is expected to refuse is not retried.
    type: int
    default: 300
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - kubernetes.core.k8s_auth_options
requirements:
  - kubernetes
  - cryptography
attributes:
  check_mode:
    description: Skipped in check mode, because the questions need the objects.
    support: none
  diff_mode:
    description: The module returns no diff.
    support: none
  idempotent:
    description: O(step=clean) can be repeated. O(step=ask) needs a new O(name) each time, because Google keeps a pool's ID for 30 days.
    support: partial
notes:
  - The caller needs C(roles/iam.workloadIdentityPoolAdmin) and C(roles/artifactregistry.admin) in O(project). Without permissions for
    service accounts, APIs and the project's policy, the module skips the questions about them.
  - The caller needs the permission C(create) on C(serviceaccounts/token) in the namespace.
seealso:
  - module: pullthrough.registry_cache.cluster_oidc_info
"""

EXAMPLES = r"""
- name: Read the cluster's issuer and keys
  pullthrough.registry_cache.cluster_oidc_info:
  register: cluster

- name: Compare the answers of Google with the assumptions
  pullthrough.registry_cache.gcp_acceptance:
    project: my-project
    name: rc-acceptance-1
    issuer_uri: "{{ cluster.issuer }}"
    jwks: "{{ cluster.jwks }}"
    assumptions: "{{ lookup('ansible.builtin.file', 'assumptions.yml') | from_yaml }}"
  register: asked

- name: Remove the objects
  pullthrough.registry_cache.gcp_acceptance:
    project: my-project
    name: rc-acceptance-1
    step: clean
    made: "{{ asked.made }}"
"""

RETURN = r"""
answers:
  description:
    - Each of O(assumptions), with C(verdict), which is C(same), C(different) or C(not asked), and with C(answered) or C(reason).
    - Contains no token and no name of the run.
  returned: with O(step=ask), also after a failure
  type: dict
  sample:
    missing_pool:
      asked: GET of a pool that never was
      expected: {status: 404}
      verdict: same
      answered: {status: 404, error: NOT_FOUND, message: Requested entity was not found.}
table:
  description: One line for each entry of RV(answers).
  returned: with O(step=ask), also after a failure
  type: list
  elements: str
  sample:
    - same       missing_pool
made:
  description: Kinds of objects that O(step=clean) must remove.
  returned: with O(step=ask), also after a failure
  type: list
  elements: str
  sample: [pool, repository, account]
"""

import re
import typing as t

from ansible.module_utils.basic import missing_required_lib
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google import client as gcp
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.acceptance import issuer, questions
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.acceptance.run import Run
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.acceptance.verdicts import without_secrets
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.artifact_registry import check_location
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.client import GcpClient, GcpError, check_project
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.runner import run
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import connect
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import ClusterError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import cluster_module

# Everything with this name is removed.
_NAME = re.compile(r"rc-acceptance-[a-z0-9]{1,16}")
_KINDS = ["account", "pool", "repository"]


def work(module: t.Any) -> dict[str, t.Any]:
    """Run the step; return its result. Raise GcpError."""
    params = module.params
    check_project(params["project"])
    check_location(params["location"])
    if not _NAME.fullmatch(params["name"]):
        raise GcpError(
            f"name: must be rc-acceptance- with 1 to 16 more characters (a-z, 0-9) (got '{params['name']}')."
            " Example: name: rc-acceptance-1"
        )
    return _ask(module) if params["step"] == "ask" else _clean(module)


def _ask(module: t.Any) -> dict[str, t.Any]:
    failure = ""
    try:
        asking = Run(module.params, GcpClient(module), connect(module))
    except ClusterError as error:
        raise GcpError(f"{error}.") from error
    try:
        questions.ask(asking)
    except (GcpError, ClusterError) as error:
        failure = str(error)
    except Exception as error:  # an unexpected answer: report the other answers, and the objects to remove
        failure = f"{type(error).__name__}: {error}"
    if failure:
        module.fail_json(msg=without_secrets(failure), **asking.report())
    return asking.report()


def _clean(module: t.Any) -> dict[str, t.Any]:
    params = module.params
    changed, failures = questions.clean(
        GcpClient(module), params["project"], params["location"], params["name"], params["made"]
    )
    if failures:
        module.fail_json(msg=" ".join(failures), changed=changed)
    return {"changed": changed}


def main() -> None:
    module = cluster_module(
        {
            **gcp.argument_spec(),
            "name": {"type": "str", "required": True},
            "location": {"type": "str", "default": "us-central1"},
            "step": {"type": "str", "choices": ["ask", "clean"], "default": "ask"},
            "issuer_uri": {"type": "str"},
            "jwks": {"type": "dict"},
            "assumptions": {"type": "dict"},
            "made": {"type": "list", "elements": "str", "choices": _KINDS, "default": _KINDS},
        },
        required_if=[("step", "ask", ("issuer_uri", "jwks", "assumptions"))],
        supports_check_mode=False,
    )
    gcp.require_libraries(module)
    if issuer.IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=issuer.IMPORT_ERROR)
    run(module, work)


if __name__ == "__main__":
    main()
