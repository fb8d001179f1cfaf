#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_users
short_description: Manage the users and credentials of a cache
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Manages two Secrets in the namespace of a cache. C(NAME-passwords) contains, as JSON under the key C(users), the credentials of each
    user with a known password. C(NAME-htpasswd) is generated from it for the registry.
  - A user without a password gets a generated password of 43 letters and digits, which have 256 random bits. The module refuses a
    password that differs from the active one, because pull secrets contain the active one. Use a rotation with O(step) to replace it.
  - A new credential has another user name for the registry, such as C(team-a.g1) for user C(team-a), so the old credential stays valid.
  - Concurrent runs end with the same passwords. The slower run reads the result of the faster one and continues from there.
  - Refuses Secrets with these names that do not belong to the cache. See M(pullthrough.registry_cache.cache_objects_info).
options:
  users:
    description: All users of the cache. Users that are not listed lose their credentials. Required unless O(users_from) is set.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      password:
        description: Password, with at most 72 bytes. If neither this nor O(users[].hash) is set, a password is generated.
        type: str
      hash:
        description: Bcrypt hash. Without O(users[].password), it is copied to the htpasswd file and never rotated.
        type: str
  step:
    description:
      - V(ensure) adds new users and changes no active credential. It revokes old credentials of a rotation that have expired.
      - V(issue) adds a new credential for each user in O(rotate). V(activate) makes it the active one. V(schedule) records when the old
        credential expires. V(revoke) removes expired credentials from the htpasswd file, and V(prune) removes their records.
      - Each step resumes an interrupted rotation.
    type: str
    choices: [ensure, issue, activate, schedule, revoke, prune]
    default: ensure
  rotate:
    description: With O(step=issue), users that get a new credential. If empty, all users with a known password.
    type: list
    elements: str
    default: []
  grace:
    description: With O(step=schedule), time in seconds until an old credential expires. With V(0), all old credentials expire at once.
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
    description: Shows names and times, never a password or hash.
    support: full
notes:
  - The caller needs the permissions C(get), C(create) and C(patch) on Secrets in the namespace.
seealso:
  - module: pullthrough.registry_cache.cache_users_verify
  - module: pullthrough.registry_cache.pull_secrets
"""

EXAMPLES = r"""
- name: Manage two users, and generate a password for one of them
  pullthrough.registry_cache.cache_users:
    users:
      - name: nodes
        password: "{{ vault_nodes_password }}"
      - name: team-a

- name: Add a new credential next to the old one
  pullthrough.registry_cache.cache_users:
    users_from: registry_cache_users
    step: issue
    rotate: [team-a]
"""

RETURN = r"""
users:
  description: Registry user names of each user with a known password, and when they expire.
  returned: success
  type: list
  elements: str
  sample: ["team-a: team-a.g1, team-a until 2026-01-01T00:05:00Z"]
rotating:
  description: Users whose credential is being replaced.
  returned: success
  type: list
  elements: str
revoked:
  description: Whether there are revoked credentials that O(step=prune) has not removed yet.
  returned: success
  type: bool
due_in:
  description: Time in seconds until the last old credential expires.
  returned: success
  type: int
added:
  description: Registry user names that are new in the htpasswd file or have a new hash there.
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
    """Return the state after a step."""
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
    """Applies a step to the Secrets as they were read. Raises ClusterError, with the option or Secret that is wrong."""

    def __init__(self, module: t.Any, client: Client, owner: Owner, users: list[htpasswd.User]) -> None:
        params = module.params
        # Read htpasswd first, so that a newer file is never compared with older passwords.
        self._htpasswd = Secret(client, owner, "htpasswd", "htpasswd")
        self._passwords = _users.Passwords(client, owner)
        try:
            lines, places = htpasswd.parse(self._htpasswd.text)
        except htpasswd.TextError as error:
            raise _users.UsersError(
                f"{self._htpasswd.where}: {error}. If the Secret was edited by hand, delete it and run site.yml. No password is lost"
            ) from None
        self.before = self._passwords.state
        hashes = {name: lines[index].partition(":")[2].strip() for name, index in places.items()}
        self.now = datetime.datetime.now(datetime.timezone.utc)
        self.state = _stepped(params, self.before, users, hashes, self.now)
        accounts = _users.accounts(self.state, users)
        self._changed = bool(self.before or self.state) and _users.write(self.state) != self._passwords.text
        try:
            # A hash that is not written need not be strong.
            made = _LEAST_COST if module.check_mode else _COST
            self._text, self.actions = htpasswd.apply(self._htpasswd.text, accounts, _COST, True, made_cost=made)
            htpasswd.parse(self._text)
        except htpasswd.UserError as error:
            raise _users.UsersError(f"users: {error}") from None

    @property
    def changed(self) -> bool:
        return bool(self._changed or self.actions)

    def write(self) -> bool:
        """Write the Secrets; return False if another run has changed them since they were read."""
        # Write passwords first, so that htpasswd never contains a user that passwords does not.
        if self._changed and not self._passwords.write(_users.write(self.state)):
            return False
        return not (self.actions or not self._htpasswd.text) or self._htpasswd.write(self._text)


def take_step(module: t.Any, client: Client) -> dict[str, t.Any]:
    """Apply a step; return the result of the module. Raise ClusterError."""
    params = module.params
    owner = cache_objects.cache_of(params)
    users = [htpasswd.User(user["name"], user["password"], True, user["hash"]) for user in params["users"]]
    _users.check(users)

    before, actions, changed = None, {}, False
    for _try in range(TRIES):
        attempt = _Attempt(module, client, owner, users)
        before = attempt.before if before is None else before
        # Include what another run has written since the first attempt, because replicas may not have it yet.
        actions.update(attempt.actions)
        changed = changed or attempt.changed
        if module.check_mode or attempt.write():
            break
    else:
        raise BusyError(f"The users were changed by another run {TRIES} times. Wait until that run has ended, and run again.")
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
        # Without the secrets, because Ansible would search each text of the result for each password.
        "invocation": {"module_args": {name: value for name, value in params.items() if name not in ("users", "api_key", "password")}},
    }


def change(module: t.Any, client: Client) -> dict[str, t.Any]:
    """Apply a step; return the result of the module. Raise ClusterError, which states if nothing was changed."""
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
