#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pull_secrets
short_description: Manage pull secrets in many namespaces at once
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Brings the pull secrets of one or more users into all namespaces that match, and removes them from those that no longer do.
  - Each kind of object is listed once, and only what differs is written, several objects at a time.
  - Labels mark the Secrets that this module made. One of the same name without them is refused, never overwritten.
options:
  instance:
    description:
      - What O(secrets) is the whole of, as the label C(app.kubernetes.io/instance). Secrets of other instances are left alone.
    type: str
    default: registry-cache
  secrets:
    description: All pull secrets of O(instance). Required with O(state=present).
    type: list
    elements: dict
    suboptions:
      name:
        description: The name of the Secret in each namespace, of at most 63 characters.
        type: str
        required: true
      hosts:
        description: The registries as image references name them, with their ports.
        type: list
        elements: str
        required: true
      username:
        description: The user.
        type: str
        required: true
      password:
        description: The password, of at most 72 bytes.
        type: str
        required: true
      namespaces:
        description:
          - The namespaces by name; they must be there. None if empty.
          - Exactly one of O(secrets[].namespaces), O(secrets[].namespace_selector) and O(secrets[].all_namespaces_but) is required.
        type: list
        elements: str
      namespace_selector:
        description: The namespaces by their labels, such as C(team in (a, b)).
        type: str
      all_namespaces_but:
        description: All namespaces but these; all of them if empty.
        type: list
        elements: str
      service_accounts:
        description:
          - Service accounts that get the Secret among their C(imagePullSecrets), in each of the namespaces that has them.
          - They keep what else is there. An entry that this module made goes when it is no longer wanted.
        type: list
        elements: str
        default: []
  reflected_from:
    description:
      - The namespace of Secrets that reflector copies. A copy of one there with the same name is taken over, as if this module had
        made it.
    type: str
  state:
    description: V(absent) removes all pull secrets of O(instance), whatever O(secrets) says.
    type: str
    choices: [present, absent]
    default: present
requirements:
  - kubernetes
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
attributes:
  check_mode:
    description: Can run in check mode and tell what would change.
    support: full
  diff_mode:
    description: Shows namespaces, names and hosts only, never a credential.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
notes:
  - The caller needs C(list) on namespaces and secrets, and where service accounts are named on these, all in all namespaces;
    and C(create), C(patch) and C(delete) on secrets and C(patch) on service accounts where it writes.
  - A namespace that is being deleted is left out, unless O(secrets[].namespaces) names it.
"""

EXAMPLES = r"""
- name: The nodes' credential in every namespace but the cluster's own, used by each pod without a service account of its own
  pullthrough.registry_cache.pull_secrets:
    secrets:
      - name: registry-cache
        hosts: ["localhost:30026", "127.0.0.1:30026"]
        username: nodes
        password: "{{ vault_nodes_password }}"
        all_namespaces_but: [kube-system, kube-public, kube-node-lease]
        service_accounts: [default]

- name: A credential for each team
  pullthrough.registry_cache.pull_secrets:
    secrets:
      - name: registry-cache
        hosts: ["localhost:30026"]
        username: team-a
        password: "{{ vault_team_a_password }}"
        namespace_selector: team=a
      - name: registry-cache
        hosts: ["localhost:30026"]
        username: team-b
        password: "{{ vault_team_b_password }}"
        namespaces: [b-dev, b-prod]

- name: No pull secret any more
  pullthrough.registry_cache.pull_secrets:
    state: absent
"""

RETURN = r"""
created:
  description: The Secrets that were not there, as C(namespace/name).
  returned: success
  type: list
  elements: str
  sample: [default/registry-cache]
updated:
  description: The Secrets whose content, labels or record of service accounts was another one.
  returned: success
  type: list
  elements: str
removed:
  description: The Secrets that are no longer wanted.
  returned: success
  type: list
  elements: str
attached:
  description: The service accounts that got a Secret, as C(namespace/service account/name).
  returned: success
  type: list
  elements: str
detached:
  description: The service accounts that lost one.
  returned: success
  type: list
  elements: str
unchanged:
  description: How many Secrets were as wanted.
  returned: success
  type: int
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException
from ansible_collections.pullthrough.registry_cache.plugins.module_utils import _pull_secrets
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._cluster import get_api_client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._pull_secrets import ApiException, HTTPError

_WAY_OUT = "Set kubeconfig and context, or KUBECONFIG, to a cluster that answers"


def _result(plan: _pull_secrets.Plan) -> dict[str, t.Any]:
    changes = [change for change in plan.changes if change.needed]
    ends = {"created": "create", "updated": "update", "removed": "remove"}
    result = {
        word: [_pull_secrets.named(change.key) for change in changes if change.action == action] for word, action in ends.items()
    }
    for word, field in (("attached", "attach"), ("detached", "detach")):
        result[word] = [f"{c.key[0]}/{account}/{c.key[1]}" for c in changes for account in getattr(c, field)]
    texts = {side: [getattr(change, side) for change in changes if getattr(change, side)] for side in ("before", "after")}
    texts["before"] += [f"{name} in imagePullSecrets" for name in result["detached"]]
    texts["after"] += [f"{name} in imagePullSecrets" for name in result["attached"]]
    return {
        "changed": bool(changes),
        "unchanged": sum(change.action == "keep" for change in plan.changes),
        "diff": {side: "".join(f"{line}\n" for line in lines) for side, lines in texts.items()},
        **result,
    }


def main() -> None:
    secret = {
        "name": {"type": "str", "required": True},
        "hosts": {"type": "list", "elements": "str", "required": True},
        "username": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
        "namespaces": {"type": "list", "elements": "str"},
        "namespace_selector": {"type": "str"},
        "all_namespaces_but": {"type": "list", "elements": "str"},
        "service_accounts": {"type": "list", "elements": "str", "default": []},
    }
    one_of = ("namespaces", "namespace_selector", "all_namespaces_but")
    spec = {
        "instance": {"type": "str", "default": "registry-cache"},
        "secrets": {
            "type": "list",
            "elements": "dict",
            "no_log": False,
            "options": secret,
            "required_one_of": [one_of],
            "mutually_exclusive": [one_of],
        },
        "reflected_from": {"type": "str"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
    module = AnsibleK8SModule(
        module_class=AnsibleModule,
        argument_spec={**AUTH_ARG_SPEC, **spec},
        required_if=[("state", "present", ["secrets"])],
        supports_check_mode=True,
        check_pyyaml=False,
    )
    params = module.params
    secrets = params["secrets"] if params["state"] == "present" else []
    host = "the cluster"
    try:
        _pull_secrets.check(params["instance"], secrets)
        client = get_api_client(module).client
        host = client.configuration.host
        plan = _pull_secrets.Plan(_pull_secrets.Api(client), params["instance"], secrets, params["reflected_from"])
        failures = [] if module.check_mode else plan.write()
    except _pull_secrets.PullSecretError as error:
        module.fail_json(msg=f"{error}. Nothing was changed.")
    except CoreException as error:
        module.fail_json(msg=f"No way to the cluster: {error}. {_WAY_OUT}.")
    except ApiException as error:
        module.fail_json(msg=f"{host} refuses: {_pull_secrets.words(error)}. {_WAY_OUT}.")
    except (HTTPError, OSError, ValueError) as error:
        module.fail_json(msg=f"No usable answer from {host}: {error}. {_WAY_OUT}.")
    for warning in plan.warnings:
        module.warn(warning)
    if failures:
        more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
        module.fail_json(msg=f"{failures[0]}{more}. The others were written; mend that and run again.", changed=True)
    module.exit_json(**_result(plan))


if __name__ == "__main__":
    main()
