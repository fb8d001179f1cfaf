#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_acceptance
short_description: Compare how Google's APIs behave with what this collection assumes
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Creates a workload identity pool with two providers, a repository with an image of some hundred bytes, and a service account, all
    named O(name), and compares the answers of Google's APIs with O(assumptions).
  - It takes up to half an hour, since Google's grants take their time.
  - Playbook C(acceptance.yml) runs it and removes everything again.
options:
  name:
    description:
      - The name of everything that is created and removed, C(rc-acceptance-) and 1 to 16 of C(a-z) and C(0-9).
      - In the cluster, a namespace of that name and two service accounts in it, C(NAME) and C(NAME-other), must exist for O(step=ask).
    type: str
    required: true
  location:
    description: The location of the repository.
    type: str
    default: us-central1
  step:
    description:
      - V(ask) creates the objects and asks. They stay, so that V(clean) has to follow, even if V(ask) fails.
      - V(clean) removes them. The cluster is not needed for it.
    type: str
    choices: [ask, clean]
    default: ask
  issuer_uri:
    description: The issuer of the cluster's tokens. Required by O(step=ask).
    type: str
  jwks:
    description: The public keys of the cluster's tokens (RFC 7517). Required by O(step=ask).
    type: dict
  assumptions:
    description:
      - What Google is assumed to answer, by the id of a question. Each has C(asked), a text, and C(expected). Required by O(step=ask).
      - Of an expected mapping only its keys count, a text that ends in C(…) may go on, and a mapping of C(min) and C(max) holds a
        number. C(PROJECT), C(NUMBER), C(NAME), C(LOCATION) and C(ISSUER) stand for those of the run.
    type: dict
  made:
    description: With O(step=clean), what to remove. What does not exist is skipped.
    type: list
    elements: str
    choices: [account, pool, repository]
    default: [account, pool, repository]
  wait_timeout:
    description:
      - How many seconds to wait for each change at Google. The other modules wait that long in all.
      - A request whose refusal is the answer is not repeated.
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
    description: Skipped, since answers need the objects.
    support: none
  diff_mode:
    description: Returns no difference.
    support: none
  idempotent:
    description: O(step=clean) may be repeated. O(step=ask) needs another O(name) each time, since Google keeps a pool's name for 30 days.
    support: partial
notes:
  - Needs C(roles/iam.workloadIdentityPoolAdmin) and C(roles/artifactregistry.admin) in O(project). Questions about service accounts,
    enabled APIs and the policy of the project are left out where the caller lacks the permission.
  - Needs C(create) on C(serviceaccounts/token) in the namespace.
seealso:
  - module: pullthrough.registry_cache.cluster_oidc_info
"""

EXAMPLES = r"""
- name: Read the cluster's issuer and keys
  pullthrough.registry_cache.cluster_oidc_info:
  register: cluster

- name: Ask
  pullthrough.registry_cache.gcp_acceptance:
    project: my-project
    name: rc-acceptance-1
    issuer_uri: "{{ cluster.issuer }}"
    jwks: "{{ cluster.jwks }}"
    assumptions: "{{ lookup('ansible.builtin.file', 'assumptions.yml') | from_yaml }}"
  register: asked

- name: Remove what was made
  pullthrough.registry_cache.gcp_acceptance:
    project: my-project
    name: rc-acceptance-1
    step: clean
    made: "{{ asked.made }}"
"""

RETURN = r"""
answers:
  description:
    - Each of O(assumptions) with C(verdict), C(same), C(different) or C(not asked), and with C(answered) or C(reason).
    - Holds no token, and no name of the run.
  returned: with O(step=ask), also if it fails in the middle
  type: dict
  sample:
    missing_pool:
      asked: GET of a pool that never was
      expected: {status: 404}
      verdict: same
      answered: {status: 404, error: NOT_FOUND, message: Requested entity was not found.}
table:
  description: One line for each of RV(answers).
  returned: with O(step=ask), also if it fails in the middle
  type: list
  elements: str
  sample:
    - same       missing_pool
made:
  description: What O(step=clean) has to remove.
  returned: with O(step=ask), also if it fails in the middle
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

# Everything of that name is removed.
_NAME = re.compile(r"rc-acceptance-[a-z0-9]{1,16}")
_KINDS = ["account", "pool", "repository"]


def work(module: t.Any) -> dict[str, t.Any]:
    """The result of the step. Raises GcpError."""
    params = module.params
    check_project(params["project"])
    check_location(params["location"])
    if not _NAME.fullmatch(params["name"]):
        raise GcpError(
            f"name must be rc-acceptance- and 1 to 16 of a-z and 0-9 (got '{params['name']}'). Example: name: rc-acceptance-1"
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
    except Exception as error:  # an answer that nobody expects: what was answered is shown, and what was made must be removed
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
