#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pull_secrets
short_description: Manage pull secrets in many namespaces
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Creates the pull secrets of users in all matching namespaces, and removes them from namespaces that no longer match.
  - Lists each kind of object once. Writes only what differs, with several requests in parallel.
  - Labels mark the Secrets that this module created. It refuses to overwrite a Secret of the same name without these labels.
options:
  owner:
    description:
      - Namespace and name of the cache for the pull secrets, as C(NAMESPACE/NAME). Labels on each Secret record it.
      - The module removes other pull secrets of this cache. It does not change those of other caches.
    type: str
    required: true
  users:
    description: Users of the cache. Required with O(state=present), unless O(users_from) is set.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      password:
        description:
          - Password, with at most 72 bytes. It is used only if the cache has no active credential. See O(credentials_in_force).
          - In check mode, a user may have no password, because M(pullthrough.registry_cache.cache_users) would create it in the same run.
        type: str
      pull_secret:
        description: Settings for the pull secret of this user only.
        type: dict
        suboptions:
          name:
            description: Name of the Secret. The default is O(name).
            type: str
          namespaces:
            description:
              - Namespaces for the Secret. They must exist. With an empty list, the user has no pull secret.
              - At most one of this, O(users[].pull_secret.namespace_selector) and O(users[].pull_secret.exclude_namespaces) may be set. If
                none is set, the module's own O(namespaces), O(namespace_selector) or O(exclude_namespaces) applies.
            type: list
            elements: str
          namespace_selector:
            description: Label selector of the namespaces for the Secret.
            type: str
          exclude_namespaces:
            description: Namespaces to exclude. The Secret is created in all others.
            type: list
            elements: str
          service_accounts:
            description: Service accounts for the Secret. If not set or empty, O(service_accounts) applies.
            type: list
            elements: str
  credentials_in_force:
    description:
      - Whether to use the credentials in Secret C(NAME-passwords) of the cache's namespace, which
        M(pullthrough.registry_cache.cache_users) writes. They take precedence over the passwords in O(users), which the replicas may not
        know yet.
    type: bool
    default: true
  name:
    description:
      - Name of the Secret in each namespace, with at most 63 characters.
      - The default is C(NAME.NAMESPACE) of the cache, or C(NAME) if both are the same, so that the pull secrets of several caches have
        different names. A longer name is shortened and ends with a hash.
    type: str
  hosts:
    description: Registries as in image references, each with its port. Required with O(state=present).
    type: list
    elements: str
    default: []
  namespaces:
    description:
      - Namespaces for the Secret. They must exist.
      - At most one of this, O(namespace_selector) and O(exclude_namespaces) may be set. If none is set, only users with their own
        namespaces have a pull secret.
      - If the caller may not list Secrets in all namespaces, the module searches for existing pull secrets in these namespaces and in
        those of O(users), also with O(state=absent).
    type: list
    elements: str
  namespace_selector:
    description: Label selector of the namespaces for the Secret, such as V(team in (a, b\)).
    type: str
  exclude_namespaces:
    description: Namespaces to exclude. The Secret is created in all others. With an empty list, no namespace is excluded.
    type: list
    elements: str
  service_accounts:
    description:
      - Names of service accounts to which the Secret is added as one of C(imagePullSecrets), in each of the namespaces.
      - Other entries are kept. Entries that this module added are removed when they are no longer configured.
    type: list
    elements: str
    default: []
  labels:
    description:
      - Additional labels of the Secret. A label that is no longer listed is removed.
      - Labels that the module sets itself are refused.
    type: dict
    default: {}
  annotations:
    description: Additional annotations of the Secret. The same rules as for O(labels) apply.
    type: dict
    default: {}
  controller:
    description:
      - Controller in the cluster that copies pull secrets to namespaces that are created between two runs.
      - The module creates the objects that the controller reads, and takes over its copies. For V(external_secrets), these are a
        ClusterExternalSecret and the objects that it needs, for each of O(users). For V(reflector), it is an annotated Secret in the
        cache's namespace.
      - Objects of an earlier run that are no longer configured are removed.
    type: str
    choices: [none, external_secrets, reflector]
    default: none
  skip_forbidden:
    description:
      - What to do if the caller may not read or write the Secrets or service accounts of a namespace. With V(false), the module fails.
        With V(true), it skips the namespace, warns, and lists the namespace in RV(forbidden).
      - The module finds out whether it may write only when it writes, so check mode does not report this.
    type: bool
    default: false
  state:
    description: V(absent) removes all pull secrets of O(owner), and its objects for a controller.
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
    description: Shows namespaces, names and hosts, never a credential.
    support: full
notes:
  - The caller needs the permission C(list) on namespaces, secrets and serviceaccounts in all namespaces. In the namespaces to change, it
    needs C(create), C(patch) and C(delete) on secrets and C(patch) on serviceaccounts.
  - O(credentials_in_force) needs the permission C(get) on Secret C(NAME-passwords) in the cache's namespace.
  - Without the permission to list Secrets in all namespaces, the module works in O(namespaces) and the namespaces of O(users), one by one,
    and warns that it does not search other namespaces.
  - O(controller) needs the permissions C(list), C(get), C(create), C(patch) and C(delete) on the objects that it creates. Without a
    controller, the module needs C(list) on secrets, serviceaccounts, roles and rolebindings in the cache's namespace, to find objects of
    an earlier run. Otherwise it warns.
  - A namespace that is being deleted is skipped, unless O(namespaces) or O(users[].pull_secret.namespaces) names it.
  - An annotation of a service account records the entries in C(imagePullSecrets) that this module added. The module removes them even if
    the Secret was deleted by hand.
"""

EXAMPLES = r"""
- name: Create pull secrets in all namespaces except the system's, and add them to the default service accounts
  pullthrough.registry_cache.pull_secrets:
    owner: registry-cache/registry-cache
    users:
      - name: nodes
    hosts: ["localhost:30026", "127.0.0.1:30026"]
    exclude_namespaces: [kube-system, kube-public, kube-node-lease]
    service_accounts: [default]

- name: Create a pull secret for each team
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

- name: Remove all pull secrets
  pullthrough.registry_cache.pull_secrets:
    owner: registry-cache/registry-cache
    state: absent

- name: Create pull secrets in two namespaces, of which one may be forbidden
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
  description: Secrets that were created, as C(namespace/name). If the module fails after a change, this and the other lists contain the
    changes before the failure.
  returned: success, and failure after a change
  type: list
  elements: str
  sample: [default/registry-cache]
updated:
  description: Secrets whose content, labels or annotations were changed.
  returned: success, and failure after a change
  type: list
  elements: str
removed:
  description: Secrets that were removed.
  returned: success, and failure after a change
  type: list
  elements: str
attached:
  description: Service accounts to which a Secret was added, as C(namespace/service account/name).
  returned: success, and failure after a change
  type: list
  elements: str
detached:
  description: Service accounts from which a Secret was removed, as C(namespace/service account/name).
  returned: success, and failure after a change
  type: list
  elements: str
sources_written:
  description: Objects for O(controller) that were created or changed.
  returned: success, and failure after a change
  type: list
  elements: str
  sample: [Secret registry-cache/registry-cache]
sources_removed:
  description: Objects for a controller that were removed.
  returned: success, and failure after a change
  type: list
  elements: str
forbidden:
  description: Namespaces that were skipped because of O(skip_forbidden).
  returned: success, and failure after a change
  type: list
  elements: str
unchanged:
  description: Number of Secrets that were already correct.
  returned: success, and failure after a change
  type: int
"""

import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import controllers, pull_secrets, users
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import ClusterError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import cluster_module, run

# Stands for a password in check mode, which writes nothing.
_UNMADE = "to-be-generated"


class Run:
    """One run of the module. Its methods raise ClusterError."""

    def __init__(self, module: t.Any) -> None:
        self._module = module
        self._sources: t.Any = None
        self._plan: t.Any = None
        self._begun = False

    def plan(self, client: Client) -> None:
        """Read the state of the cluster, and refuse what cannot be done."""
        params = self._module.params
        owner = Owner.parse(params["owner"])
        present = params["state"] == "present"
        secrets = pull_secrets.check(owner, self._of_users(client, owner)) if present else []
        self._sources = controllers.Sources(client, owner, secrets, params["controller"] if present else "none")
        options = {"search": pull_secrets.named_namespaces(params), "skip_forbidden": params["skip_forbidden"]}
        self._plan = pull_secrets.Plan(client, owner, secrets, self._sources.names, **options)

    def _of_users(self, client: Client, owner: Owner) -> list[dict[str, t.Any]]:
        """Return the pull secrets of the users, with the active credentials of the cache if it has some."""
        params, held = self._module.params, {}
        if params["credentials_in_force"]:
            held = users.Passwords(client, owner, example="owner: registry-cache/registry-cache-2").state
        return pull_secrets.of_users(params, held, _UNMADE if self._module.check_mode else None)

    def write(self) -> list[str]:
        """Write the changes; return the problem of each object that could not be written."""
        check, present = self._module.check_mode, self._module.params["state"] == "present"
        self._begun = not check
        try:
            # First, so that no controller restores the previous content of the pull secrets.
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
        """Whether something was written, even if an error followed."""
        return self._begun and self.result()["changed"]

    def warn(self) -> None:
        if self._sources:
            self._warn_of(self._sources.warnings)
        if self._plan:
            self._warn_of(self._plan.warnings)
            self._warn_of(f"Namespace {name} was skipped: {why}." for name, why in sorted(self._plan.forbidden.items()))

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
    """Return the result of the module. Raise ClusterError if nothing was changed, otherwise fail the module."""
    current, problem = Run(module), ""
    try:
        current.plan(client)
        if failures := current.write():
            problem = failures[0] + (f", and {len(failures) - 1} more" if len(failures) > 1 else "")
            if current.changed:
                problem += ". The other objects were written. Fix this problem and run again"
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
