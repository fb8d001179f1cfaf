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
  owner:
    description:
      - The namespace and name of the cache that the pull secrets are for, as C(NAMESPACE/NAME). Labels record it on each Secret.
      - O(secrets) are all of its pull secrets. Those of other caches are left alone.
    type: str
    required: true
  secrets:
    description: All pull secrets of O(owner). Required with O(state=present).
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - The name of the Secret in each namespace, of at most 63 characters.
          - By default the name of the cache and its namespace, as C(NAME.NAMESPACE), or only C(NAME) where both are the same, so that
            the pull secrets of several caches of a cluster have different names. What is longer is cut, and ends in a hash.
        type: str
      hosts:
        description: The registries as image references name them, with their ports.
        type: list
        elements: str
        required: true
      username:
        description: The user.
        type: str
        required: true
      user:
        description: A name for the user that a rotation keeps, by which objects for O(controller) are named. By default the username.
        type: str
      password:
        description: The password, of at most 72 bytes.
        type: str
        required: true
      namespaces:
        description:
          - The namespaces by name; they must be there. None if empty.
          - Exactly one of O(secrets[].namespaces), O(secrets[].namespace_selector) and O(secrets[].exclude_namespaces) is required.
        type: list
        elements: str
      namespace_selector:
        description: The namespaces by their labels, such as C(team in (a, b)).
        type: str
      exclude_namespaces:
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
      labels:
        description:
          - More labels of the Secret. One that is no longer named is removed.
          - Those that this module sets itself are refused.
        type: dict
        default: {}
      annotations:
        description: More annotations, as O(secrets[].labels).
        type: dict
        default: {}
  controller:
    description:
      - A controller of the cluster that brings pull secrets to namespaces that are made between two runs.
      - The module makes what that controller reads, and takes the copies over. With V(external_secrets) that is a ClusterExternalSecret
        and what it needs, for each of O(secrets); with V(reflector) an annotated Secret in the cache's namespace.
      - What an earlier run made for a controller and is no longer wanted is removed.
    type: str
    choices: [none, external_secrets, reflector]
    default: none
  search_namespaces:
    description:
      - Namespaces to look into for pull secrets of O(owner), beside those of O(secrets), where the caller may not list Secrets in all
        namespaces. Otherwise this has no effect.
    type: list
    elements: str
    default: []
  skip_forbidden:
    description:
      - What happens where the caller may not read or write the Secrets or service accounts of a namespace. V(false) ends the run.
        V(true) leaves the namespace out, with a warning and in RV(forbidden).
      - Whether a namespace may be written to shows when it is, so check mode does not tell.
    type: bool
    default: false
  state:
    description: V(absent) removes all pull secrets of O(owner), and all that it has for a controller. O(secrets) is then ignored.
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
  - The caller needs C(list) on namespaces, secrets and serviceaccounts in all namespaces; C(create), C(patch) and C(delete) on secrets
    and C(patch) on service accounts where it writes.
  - Without the right to list Secrets in all namespaces, the module works in the namespaces of O(secrets) and O(search_namespaces), one
    by one, and warns that it does not look into others.
  - For O(controller) it needs C(list), C(get), C(create), C(patch) and C(delete) on what it makes. Without a controller it needs C(list)
    on secrets, serviceaccounts, roles and rolebindings of the cache's namespace to find what an earlier run made, else it warns.
  - A namespace that is being deleted is left out, unless O(secrets[].namespaces) names it.
  - An entry that this module made in C(imagePullSecrets) is recorded in an annotation of the service account. It is removed also where
    the Secret was deleted by hand.
"""

EXAMPLES = r"""
- name: The nodes' credential in every namespace but the cluster's own, used by each pod without a service account of its own
  pullthrough.registry_cache.pull_secrets:
    owner: registry-cache/registry-cache
    secrets:
      - hosts: ["localhost:30026", "127.0.0.1:30026"]
        username: nodes
        password: "{{ vault_nodes_password }}"
        exclude_namespaces: [kube-system, kube-public, kube-node-lease]
        service_accounts: [default]

- name: A credential for each team
  pullthrough.registry_cache.pull_secrets:
    owner: registry-cache/registry-cache
    secrets:
      - hosts: ["localhost:30026"]
        username: team-a
        password: "{{ vault_team_a_password }}"
        namespace_selector: team=a
      - hosts: ["localhost:30026"]
        username: team-b
        password: "{{ vault_team_b_password }}"
        namespaces: [b-dev, b-prod]

- name: No pull secret any more
  pullthrough.registry_cache.pull_secrets:
    owner: registry-cache/registry-cache
    state: absent

- name: A credential for two namespaces, of which one may be forbidden
  pullthrough.registry_cache.pull_secrets:
    owner: registry-cache/registry-cache
    secrets:
      - hosts: ["localhost:30026"]
        username: team-a
        password: "{{ vault_team_a_password }}"
        namespaces: [a-dev, a-prod]
        labels: {team: a}
    skip_forbidden: true
"""

RETURN = r"""
created:
  description: The Secrets that were created, as C(namespace/name). If the module fails after it has changed something, this and the
    other lists say what.
  returned: success, and failure after a change
  type: list
  elements: str
  sample: [default/registry-cache]
updated:
  description: The Secrets whose content, labels or annotations were changed.
  returned: success, and failure after a change
  type: list
  elements: str
removed:
  description: The Secrets that are no longer wanted.
  returned: success, and failure after a change
  type: list
  elements: str
attached:
  description: The service accounts that got a Secret, as C(namespace/service account/name).
  returned: success, and failure after a change
  type: list
  elements: str
detached:
  description: The service accounts that lost one.
  returned: success, and failure after a change
  type: list
  elements: str
sources_written:
  description: The objects for O(controller) that were created or changed.
  returned: success, and failure after a change
  type: list
  elements: str
  sample: [Secret registry-cache/registry-cache]
sources_removed:
  description: The objects for a controller that were removed.
  returned: success, and failure after a change
  type: list
  elements: str
forbidden:
  description: The namespaces that were left out by O(skip_forbidden).
  returned: success, and failure after a change
  type: list
  elements: str
unchanged:
  description: How many Secrets were as wanted.
  returned: success, and failure after a change
  type: int
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import controllers, pull_secrets
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import connect
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import ClusterError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner


class Run:
    """One run of the module. Raises ClusterError."""

    def __init__(self, module: t.Any) -> None:
        self._module = module
        self._sources: t.Any = None
        self._plan: t.Any = None
        self._begun = False

    def plan(self) -> None:
        """Read what the cluster has, and refuse what cannot be done."""
        params = self._module.params
        owner = Owner.parse(params["owner"])
        present = params["state"] == "present"
        secrets = pull_secrets.check(owner, params["secrets"]) if present else []
        api = connect(self._module)
        self._sources = controllers.Sources(api, owner, secrets, params["controller"] if present else "none")
        options = {"search": params["search_namespaces"], "skip_forbidden": params["skip_forbidden"]}
        self._plan = pull_secrets.Plan(api, owner, secrets, self._sources.names, **options)

    def write(self) -> list[str]:
        """The problem of each object that could not be written."""
        check, present = self._module.check_mode, self._module.params["state"] == "present"
        self._begun = not check
        try:
            # First, so that no controller brings back what the pull secrets had before.
            if present:
                self._sources.apply(check)
            else:
                self._sources.prune(check, keep_copies=False)
        except Exception:
            self._plan.discard()
            raise
        failures = [] if check else self._plan.write()
        if present and not failures:
            self._sources.prune(check, keep_copies=True)
        return failures

    @property
    def changed(self) -> bool:
        """Whether something was written, also before an error."""
        return self._begun and self.result()["changed"]

    def warn(self) -> None:
        if self._sources:
            self._warn_of(self._sources.warnings)
        if self._plan:
            self._warn_of(self._plan.warnings)
            self._warn_of(f"Namespace {name} was left out: {why}." for name, why in sorted(self._plan.forbidden.items()))

    def _warn_of(self, texts: t.Iterable[str]) -> None:
        for text in texts:
            self._module.warn(text)

    def result(self) -> dict[str, t.Any]:
        changes = self._plan.changes
        ends = {"created": "create", "updated": "update", "removed": "remove"}
        result: dict[str, t.Any] = {
            word: [pull_secrets.named(change.key) for change in changes if change.action == action] for word, action in ends.items()
        }
        for word, field in (("attached", "attach"), ("detached", "detach")):
            pairs = [(binding.key, name) for binding in self._plan.bindings for name in getattr(binding, field)]
            result[word] = [f"{pull_secrets.named(account)}/{name}" for account, name in pairs]
        result["sources_written"], result["sources_removed"] = self._sources.written, self._sources.removed
        changed = any(result.values())
        different = [change for change in changes if change.action != "keep"]
        texts = {side: [getattr(change, side) for change in different if getattr(change, side)] for side in ("before", "after")}
        texts["before"] += [f"{name} in imagePullSecrets" for name in result["detached"]]
        texts["after"] += [f"{name} in imagePullSecrets" for name in result["attached"]]
        texts["before"] += [f"{name} for a controller" for name in result["sources_removed"]]
        texts["after"] += [f"{name} for a controller" for name in result["sources_written"]]
        return {
            "changed": changed,
            "unchanged": sum(change.action == "keep" for change in changes),
            "forbidden": sorted(self._plan.forbidden),
            "diff": {side: "".join(f"{line}\n" for line in lines) for side, lines in texts.items()},
            **result,
        }


def main() -> None:
    secret = {
        "name": {"type": "str"},
        "hosts": {"type": "list", "elements": "str", "required": True},
        "username": {"type": "str", "required": True},
        "user": {"type": "str"},
        "password": {"type": "str", "required": True, "no_log": True},
        "namespaces": {"type": "list", "elements": "str"},
        "namespace_selector": {"type": "str"},
        "exclude_namespaces": {"type": "list", "elements": "str"},
        "service_accounts": {"type": "list", "elements": "str", "default": []},
        "labels": {"type": "dict", "default": {}},
        "annotations": {"type": "dict", "default": {}},
    }
    one_of = ("namespaces", "namespace_selector", "exclude_namespaces")
    spec = {
        "owner": {"type": "str", "required": True},
        "secrets": {
            "type": "list",
            "elements": "dict",
            "no_log": False,
            "options": secret,
            "required_one_of": [one_of],
            "mutually_exclusive": [one_of],
        },
        "controller": {"type": "str", "choices": ["none", "external_secrets", "reflector"], "default": "none"},
        "search_namespaces": {"type": "list", "elements": "str", "default": []},
        "skip_forbidden": {"type": "bool", "default": False},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
    module = AnsibleK8SModule(
        module_class=AnsibleModule,
        argument_spec={**AUTH_ARG_SPEC, **spec},
        required_if=[("state", "present", ["secrets"])],
        supports_check_mode=True,
        check_pyyaml=False,
    )
    run, problem = Run(module), ""
    try:
        run.plan()
        if failures := run.write():
            problem = failures[0] + (f", and {len(failures) - 1} more" if len(failures) > 1 else "")
            if run.changed:
                problem += ". The others were written; fix that and run again"
    except ClusterError as error:
        problem = str(error)
    run.warn()
    if problem and run.changed:
        module.fail_json(msg=f"{problem}.", **run.result())
    if problem:
        module.fail_json(msg=f"{problem}. Nothing was changed.")
    module.exit_json(**run.result())


if __name__ == "__main__":
    main()
