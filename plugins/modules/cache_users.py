#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_users
short_description: Manage the users of a cache in its cluster, and replace their credentials
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Manages two Secrets in the namespace of a cache. C(NAME-passwords) holds, as JSON under the key C(users), the credentials of each
    user whose password is known. C(NAME-htpasswd) is generated from it, and is what the registry reads.
  - A user without a password gets a generated one, with more than 128 bits. A password that differs from the one in force is refused,
    since pull secrets hold the one in force. A rotation by O(step) replaces it.
  - A new credential has another user name for the registry, such as C(team-a.g1) for the user C(team-a), so that the old one stays valid.
  - Concurrent runs end with the same passwords. The slower run reads what the other has written, and continues with it.
  - Refuses Secrets of these names that do not belong to this cache, see M(pullthrough.registry_cache.cache_objects_info).
options:
  users:
    description: All users. Others lose their credentials. Required without O(users_from).
    type: list
    elements: dict
    suboptions:
      name:
        description: The user's name.
        type: str
        required: true
      password:
        description: The password, of at most 72 bytes. One is made without it and O(users[].hash).
        type: str
      hash:
        description: A ready-made bcrypt hash. Alone it is put into the htpasswd file as it is, and is never rotated.
        type: str
  step:
    description:
      - V(ensure) adds new users, and changes no credential in force. It revokes what a rotation has left and whose time is over.
      - V(issue) adds a new credential for the users of O(rotate). V(activate) puts it in force. V(schedule) records when the old one
        expires. V(revoke) removes that from the htpasswd file if the time has come, and V(prune) removes its record.
      - Each step resumes what an earlier run has left.
    type: str
    choices: [ensure, issue, activate, schedule, revoke, prune]
    default: ensure
  rotate:
    description: With O(step=issue), the users who get a new credential. If empty, all users with a known password.
    type: list
    elements: str
    default: []
  grace:
    description: With O(step=schedule), for how many seconds an old credential stays good. With V(0) that is over for all old ones.
    type: int
    default: 300
requirements:
  - bcrypt
  - kubernetes
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.users
  - pullthrough.registry_cache.cache
  - pullthrough.registry_cache.attributes
attributes:
  diff_mode:
    description: Shows names and times only, never a password or hash.
    support: full
notes:
  - The caller needs C(get), C(create) and C(patch) on Secrets in the namespace.
seealso:
  - module: pullthrough.registry_cache.cache_users_verify
  - module: pullthrough.registry_cache.pull_secrets
"""

EXAMPLES = r"""
- name: Two users, of whom one has a password that is made
  pullthrough.registry_cache.cache_users:
    users:
      - name: nodes
        password: "{{ vault_nodes_password }}"
      - name: team-a

- name: A new credential beside the old one
  pullthrough.registry_cache.cache_users:
    users_from: registry_cache_users
    step: issue
    rotate: [team-a]
"""

RETURN = r"""
users:
  description: What each user whose password is known has on the wire, and until when.
  returned: success
  type: list
  elements: str
  sample: ["team-a: team-a.g1, team-a until 2026-01-01T00:05:00Z"]
rotating:
  description: The users of whom a credential is being replaced.
  returned: success
  type: list
  elements: str
revoked:
  description: Whether an old credential was revoked and O(step=prune) has not removed its record yet.
  returned: success
  type: bool
due_in:
  description: Seconds until the last old credential expires.
  returned: success
  type: int
added:
  description: The names on the wire that are new in the htpasswd file, or have another hash there.
  returned: success
  type: list
  elements: str
"""

import datetime
import typing as t

from ansible.module_utils.basic import missing_required_lib
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import htpasswd
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import users as _users
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes import cache_objects
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import CACHE_OPTIONS, cluster_module, run
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.secret import TRIES, BusyError, Secret

_COST = 10
_LEAST_COST = 4


def _stepped(
    params: dict[str, t.Any],
    state: _users.State,
    users: list[htpasswd.User],
    hashes: dict[str, str],
    now: datetime.datetime,
) -> _users.State:
    """The state after a step."""
    step = params["step"]
    ensured = _users.ensure(state, users, hashes, now, rotating=step != "ensure")
    if step == "issue":
        return _users.issue(ensured, users, params["rotate"])
    if step == "activate":
        return _users.activate(ensured)
    if step == "schedule":
        return _users.schedule(ensured, now, params["grace"])
    return _users.prune(ensured) if step == "prune" else ensured


class _Attempt:
    """A step on the Secrets as they are. Raises ClusterError, and UsersError with the option or Secret that is wrong."""

    def __init__(self, module: t.Any, client: Client, owner: Owner, users: list[htpasswd.User]) -> None:
        params = module.params
        # In this order: lines of a newer file are never judged by older passwords.
        self._htpasswd = Secret(client, owner, "htpasswd", "htpasswd")
        self._passwords = _users.Passwords(client, owner)
        try:
            lines, places = htpasswd.parse(self._htpasswd.text)
        except htpasswd.TextError as error:
            raise _users.UsersError(
                f"{self._htpasswd.where}: {error}. If it was edited by hand, remove it and run site.yml: no password is lost by that"
            ) from None
        self.before = self._passwords.state
        hashes = {name: lines[index].partition(":")[2].strip() for name, index in places.items()}
        self.now = datetime.datetime.now(datetime.timezone.utc)
        self.state = _stepped(params, self.before, users, hashes, self.now)
        accounts = _users.accounts(self.state, users)
        self._changed = bool(self.before or self.state) and _users.write(self.state) != self._passwords.text
        try:
            # What is thrown away need not be strong.
            made = _LEAST_COST if module.check_mode else _COST
            self._text, self.actions = htpasswd.apply(self._htpasswd.text, accounts, _COST, True, made_cost=made)
            htpasswd.parse(self._text)
        except htpasswd.UserError as error:
            raise _users.UsersError(f"users: {error}") from None

    @property
    def changed(self) -> bool:
        return bool(self._changed or self.actions)

    def write(self) -> bool:
        """Whether all is written; if not, another run was faster, and what it wrote has to be read."""
        # In this order the htpasswd file never has what the other does not know.
        if self._changed and not self._passwords.write(_users.write(self.state)):
            return False
        return not (self.actions or not self._htpasswd.text) or self._htpasswd.write(self._text)


def take_step(module: t.Any, client: Client) -> dict[str, t.Any]:
    """The result of a step. Raises ClusterError."""
    params = module.params
    owner = cache_objects.cache_of(params)
    users = [htpasswd.User(user["name"], user["password"], True, user["hash"]) for user in params["users"]]
    _users.check(users)

    before, actions, changed = None, {}, False
    for _try in range(TRIES):
        attempt = _Attempt(module, client, owner, users)
        before = attempt.before if before is None else before
        # Also what another run has written since the first attempt: replicas may not know it yet.
        actions.update(attempt.actions)
        changed = changed or attempt.changed
        if module.check_mode or attempt.write():
            break
    else:
        raise BusyError(f"Somebody else changed the users {TRIES} times meanwhile. Run again.")
    old, new = _users.describe(before), _users.describe(attempt.state)
    done = [f"{name} ({action} in htpasswd)" for name, action in sorted(actions.items())]
    return {
        "changed": changed,
        "users": new,
        "rotating": _users.rotating(attempt.state),
        "revoked": _users.revoked(attempt.state),
        "due_in": _users.due_in(attempt.state, attempt.now),
        "added": sorted(name for name, action in actions.items() if action != "removed"),
        "diff": {"before": "".join(f"{line}\n" for line in old), "after": "".join(f"{line}\n" for line in new + done)},
        # Ansible would look for each password in each text of it.
        "invocation": {"module_args": {name: value for name, value in params.items() if name not in ("users", "api_key", "password")}},
    }


def change(module: t.Any, client: Client) -> dict[str, t.Any]:
    """The result of a step. Raises ClusterError, which says so where nothing was changed."""
    try:
        return take_step(module, client)
    except (_users.UsersError, cache_objects.ObjectsError) as error:
        raise _users.UsersError(f"{error}. Nothing was changed") from error


def main() -> None:
    spec = {
        **CACHE_OPTIONS,
        "users": {
            "type": "list",
            "elements": "dict",
            "options": {
                "name": {"type": "str", "required": True},
                "password": {"type": "str", "no_log": True},
                "hash": {"type": "str", "no_log": True},
            },
        },
        # The action plugin reads the variable.
        "users_from": {"type": "str"},
        "step": {
            "type": "str",
            "choices": ["ensure", "issue", "activate", "schedule", "revoke", "prune"],
            "default": "ensure",
        },
        "rotate": {"type": "list", "elements": "str", "default": []},
        "grace": {"type": "int", "default": 300},
    }
    module = cluster_module(spec, required_one_of=[("users", "users_from")])
    if library := htpasswd.missing(["bcrypt"]):
        module.fail_json(msg=missing_required_lib(library))
    run(module, change)


if __name__ == "__main__":
    main()
