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
      - The pull secrets of O(users) are all that it has. Those of other caches are left alone.
    type: str
    required: true
  users:
    description: The users of the cache. Required with O(state=present) without O(users_from).
    type: list
    elements: dict
    suboptions:
      name:
        description: The user's name.
        type: str
        required: true
      password:
        description:
          - The password, of at most 72 bytes. It is used where the cache has none in force, see O(credentials_in_force).
          - In check mode a user may have none, since M(pullthrough.registry_cache.cache_users) makes it in the same run.
        type: str
      pull_secret:
        description: What differs for this user's pull secret.
        type: dict
        suboptions:
          name:
            description: Its name instead of O(name).
            type: str
          namespaces:
            description:
              - Its namespaces by name; they must exist. With an empty list the user has no pull secret.
              - At most one of this, O(users[].pull_secret.namespace_selector) and O(users[].pull_secret.exclude_namespaces). With none,
                the user has the namespaces of all.
            type: list
            elements: str
          namespace_selector:
            description: Its namespaces by their labels.
            type: str
          exclude_namespaces:
            description: All namespaces but these.
            type: list
            elements: str
          service_accounts:
            description: Instead of O(service_accounts).
            type: list
            elements: str
  credentials_in_force:
    description:
      - Whether the credentials are those of Secret C(NAME-passwords) in the cache's namespace, which
        M(pullthrough.registry_cache.cache_users) writes. They precede the passwords of O(users), which replicas may not know yet.
    type: bool
    default: true
  name:
    description:
      - The name of the Secret in each namespace, of at most 63 characters.
      - By default the name of the cache and its namespace, as C(NAME.NAMESPACE), or only C(NAME) where both are the same, so that
        the pull secrets of several caches of a cluster have different names. What is longer is cut, and ends in a hash.
    type: str
  hosts:
    description: The registries as image references name them, with their ports. Required with O(state=present).
    type: list
    elements: str
    default: []
  namespaces:
    description:
      - The namespaces by name; they must exist.
      - At most one of this, O(namespace_selector) and O(exclude_namespaces). With none, only users with namespaces of their own have
        a pull secret.
      - Where the caller may not list Secrets in all namespaces, the module looks for pull secrets of O(owner) in these and those of
        O(users), also with O(state=absent).
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
    description: More annotations, as O(labels).
    type: dict
    default: {}
  controller:
    description:
      - A controller of the cluster that brings pull secrets to namespaces that are made between two runs.
      - The module makes what that controller reads, and takes the copies over. With V(external_secrets) that is a ClusterExternalSecret
        and what it needs, for each of O(users); with V(reflector) an annotated Secret in the cache's namespace.
      - What an earlier run made for a controller and is no longer wanted is removed.
    type: str
    choices: [none, external_secrets, reflector]
    default: none
  skip_forbidden:
    description:
      - What happens where the caller may not read or write the Secrets or service accounts of a namespace. V(false) ends the run.
        V(true) leaves the namespace out, with a warning and in RV(forbidden).
      - Whether a namespace may be written to shows when it is, so check mode does not tell.
    type: bool
    default: false
  state:
    description: V(absent) removes all pull secrets of O(owner), and all that it has for a controller.
    type: str
    choices: [present, absent]
    default: present
requirements:
  - kubernetes
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.users
  - pullthrough.registry_cache.attributes
attributes:
  diff_mode:
    description: Shows namespaces, names and hosts only, never a credential.
    support: full
notes:
  - The caller needs C(list) on namespaces, secrets and serviceaccounts in all namespaces; C(create), C(patch) and C(delete) on secrets
    and C(patch) on service accounts where it writes.
  - With O(credentials_in_force) it needs C(get) on Secret C(NAME-passwords) of the cache's namespace.
  - Without the right to list Secrets in all namespaces, the module works in O(namespaces) and the namespaces of O(users), one by one,
    and warns that it does not look into others.
  - For O(controller) it needs C(list), C(get), C(create), C(patch) and C(delete) on what it makes. Without a controller it needs C(list)
    on secrets, serviceaccounts, roles and rolebindings of the cache's namespace to find what an earlier run made, else it warns.
  - A namespace that is being deleted is left out, unless O(namespaces) or O(users[].pull_secret.namespaces) names it.
  - An entry that this module made in C(imagePullSecrets) is recorded in an annotation of the service account. It is removed also where
    the Secret was deleted by hand.
"""

EXAMPLES = r"""
- name: The nodes' credential in every namespace but the cluster's own, used by each pod without a service account of its own
  pullthrough.registry_cache.pull_secrets:
    owner: registry-cache/registry-cache
    users:
      - name: nodes
    hosts: ["localhost:30026", "127.0.0.1:30026"]
    exclude_namespaces: [kube-system, kube-public, kube-node-lease]
    service_accounts: [default]

- name: A credential for each team
  pullthrough.registry_cache.pull_secrets:
    owner: registry-cache/registry-cache
    hosts: ["localhost:30026"]
    users:
      - name: team-a
        pull_secret:
          namespace_selector: team=a
      - name: team-b
        pull_secret:
          namespaces: [b-dev, b-prod]

- name: No pull secret any more
  pullthrough.registry_cache.pull_secrets:
    owner: registry-cache/registry-cache
    state: absent

- name: A credential for two namespaces, of which one may be forbidden
  pullthrough.registry_cache.pull_secrets:
    owner: registry-cache/registry-cache
    hosts: ["localhost:30026"]
    users_from: registry_cache_users
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

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import controllers, pull_secrets, users
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import ClusterError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import cluster_module, run

# What stands for a password in a run that writes nothing.
_UNMADE = "to-be-generated"


class Run:
    """One run of the module. Raises ClusterError."""

    def __init__(self, module: t.Any) -> None:
        self._module = module
        self._sources: t.Any = None
        self._plan: t.Any = None
        self._begun = False

    def plan(self, client: Client) -> None:
        """Read what the cluster has, and refuse what cannot be done."""
        params = self._module.params
        owner = Owner.parse(params["owner"])
        present = params["state"] == "present"
        secrets = pull_secrets.check(owner, self._of_users(client, owner)) if present else []
        self._sources = controllers.Sources(client, owner, secrets, params["controller"] if present else "none")
        options = {"search": pull_secrets.named_namespaces(params), "skip_forbidden": params["skip_forbidden"]}
        self._plan = pull_secrets.Plan(client, owner, secrets, self._sources.names, **options)

    def _of_users(self, client: Client, owner: Owner) -> list[dict[str, t.Any]]:
        """The pull secrets of the users, with the credentials in force where the cache has some."""
        params, held = self._module.params, {}
        if params["credentials_in_force"]:
            held = users.Passwords(client, owner, example="owner: registry-cache/registry-cache-2").state
        return pull_secrets.of_users(params, held, _UNMADE if self._module.check_mode else None)

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


def manage(module: t.Any, client: Client) -> dict[str, t.Any]:
    """The result. Raises ClusterError if nothing was changed; fails the module if something was."""
    current, problem = Run(module), ""
    try:
        current.plan(client)
        if failures := current.write():
            problem = failures[0] + (f", and {len(failures) - 1} more" if len(failures) > 1 else "")
            if current.changed:
                problem += ". The others were written; fix that and run again"
    except ClusterError as error:
        problem = str(error)
    current.warn()
    if problem and current.changed:
        module.fail_json(msg=f"{problem}.", **current.result())
    if problem:
        raise ClusterError(f"{problem}. Nothing was changed")
    return current.result()


def main() -> None:
    where = {
        "namespaces": {"type": "list", "elements": "str"},
        "namespace_selector": {"type": "str"},
        "exclude_namespaces": {"type": "list", "elements": "str"},
    }
    own = {"name": {"type": "str"}, **where, "service_accounts": {"type": "list", "elements": "str"}}
    user = {
        "name": {"type": "str", "required": True},
        "password": {"type": "str", "no_log": True},
        "pull_secret": {"type": "dict", "no_log": False, "options": own, "mutually_exclusive": [pull_secrets.PLACES]},
    }
    spec = {
        "owner": {"type": "str", "required": True},
        "users": {"type": "list", "elements": "dict", "options": user},
        # The action plugin reads the variable.
        "users_from": {"type": "str"},
        "credentials_in_force": {"type": "bool", "default": True},
        "name": {"type": "str"},
        "hosts": {"type": "list", "elements": "str", "default": []},
        **where,
        "service_accounts": {"type": "list", "elements": "str", "default": []},
        "labels": {"type": "dict", "default": {}},
        "annotations": {"type": "dict", "default": {}},
        "controller": {"type": "str", "choices": ["none", "external_secrets", "reflector"], "default": "none"},
        "skip_forbidden": {"type": "bool", "default": False},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
    module = cluster_module(
        spec,
        mutually_exclusive=[pull_secrets.PLACES],
        required_if=[("state", "present", ["users", "users_from"], True)],
    )
    run(module, manage)


if __name__ == "__main__":
    main()
