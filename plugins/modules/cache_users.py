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
  - Keeps two Secrets in the namespace of a cache. C(NAME-passwords) holds, as JSON under the key C(users), the credentials of each
    user whose password is known. C(NAME-htpasswd) is made of it, and is what the registry reads.
  - A password that nobody gives is made once, with more than 128 bits. One that is given and is not the one in force is refused, since
    pull secrets hold the one in force; O(rotate) and O(step) replace it.
  - A new credential has a name of its own on the wire, such as C(team-a.g1) for the user C(team-a), so that the old one stays good.
options:
  name:
    description: The name of the cache.
    type: str
    default: registry-cache
  namespace:
    description: The namespace of the cache.
    type: str
    default: registry-cache
  users:
    description: All users. Others lose their credentials.
    type: list
    elements: dict
    required: true
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
      - V(check) changes and hashes nothing, and tells what is in the way.
      - V(keep) brings new users, and changes no credential in force. It drops what a rotation has left to be dropped by now.
      - V(begin) adds a new credential for the users of O(rotate), V(switch) makes it the one in force, V(note) notes when the old
        one may go, V(drop) takes it away if that time has come, and V(finish) forgets it. Each goes on with what an earlier one has left.
    type: str
    choices: [check, keep, begin, switch, note, drop, finish]
    default: keep
  rotate:
    description: With O(step=check) and O(step=begin), the users who get a new credential; all of whom a password is known if empty.
    type: list
    elements: str
  grace:
    description: With O(step=note), for how many seconds an old credential stays good. With V(0) that is over for all old ones.
    type: int
    default: 300
requirements:
  - bcrypt
  - kubernetes
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
attributes:
  check_mode:
    description: Can run in check mode and tell what would change.
    support: full
  diff_mode:
    description: Shows names and times only, never a password or hash.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
notes:
  - The caller needs C(get), C(create) and C(patch) on Secrets in the namespace.
seealso:
  - module: pullthrough.registry_cache.users_verify
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
    users: "{{ registry_cache_users }}"
    step: begin
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
dropped:
  description: Whether an old credential was dropped and O(step=finish) has not forgotten it yet.
  returned: success
  type: bool
due_in:
  description: Seconds until the last old credential may be dropped.
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
from base64 import b64decode, b64encode

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException
from ansible_collections.pullthrough.registry_cache.plugins.module_utils import _cache_users, _htpasswd, _pull_secrets
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._cluster import get_api_client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._pull_secrets import ApiException, HTTPError

_WAY_OUT = "Set kubeconfig and context, or KUBECONFIG, to a cluster that answers"
_COST = 10
_LEAST_COST = 4
_APPLY = {"content_type": "application/apply-patch+yaml", "field_manager": "registry-cache", "force_conflicts": "true"}


class Secret:
    """A Secret of one text. Raises ApiException."""

    def __init__(self, api: _pull_secrets.Api, cache: str, namespace: str, suffix: str, key: str) -> None:
        self.name, self.where = f"{cache}-{suffix}", f"Secret {cache}-{suffix} in namespace {namespace}"
        self._api, self._key, self._labels = api, key, _pull_secrets.labels(cache, namespace)
        self._path = f"/api/v1/namespaces/{namespace}/secrets/{self.name}"
        try:
            found = api.request("get", self._path)
        except ApiException as error:
            if error.status != 404:
                raise
            found = {"metadata": {}}
        self._version = found["metadata"].get("resourceVersion")
        self.text = b64decode((found.get("data") or {}).get(key, "")).decode()

    def write(self, text: str) -> None:
        """Unless somebody has written it since it was read (HTTP 409)."""
        metadata = {"name": self.name, "labels": self._labels}
        if self._version:
            metadata["resourceVersion"] = self._version
        data = {self._key: b64encode(text.encode()).decode()}
        self._api.request("patch", self._path, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}, **_APPLY)


def _stepped(
    params: dict[str, t.Any],
    state: _cache_users.State,
    users: list[_htpasswd.User],
    hashes: dict[str, str],
    now: datetime.datetime,
) -> _cache_users.State:
    """The state after a step."""
    rotate, step = params["rotate"], params["step"]
    kept = _cache_users.keep(state, users, hashes, now, step not in ("check", "keep") or rotate is not None)
    if step == "begin" or (step == "check" and rotate is not None):
        return _cache_users.begin(kept, users, rotate or [])
    if step == "switch":
        return _cache_users.switch(kept)
    if step == "note":
        return _cache_users.note(kept, now, params["grace"])
    return _cache_users.finish(kept) if step == "finish" else kept


def run(module: AnsibleModule, api: _pull_secrets.Api) -> dict[str, t.Any]:
    """The result of a step. Raises ApiException, and UsersError with the option or Secret that is in the way."""
    params, now = module.params, datetime.datetime.now(datetime.timezone.utc)
    users = [_htpasswd.User(user["name"], user["password"], True, user["hash"]) for user in params["users"]]
    try:
        _cache_users.check(users)
    except _cache_users.UsersError as error:
        raise _cache_users.UsersError(f"users: {error}") from None

    passwords = Secret(api, params["name"], params["namespace"], "passwords", "users")
    htpasswd = Secret(api, params["name"], params["namespace"], "htpasswd", "htpasswd")
    try:
        lines, places = _htpasswd.parse(htpasswd.text)
    except _htpasswd.TextError as error:
        raise _cache_users.UsersError(
            f"{htpasswd.where}: {error}. If it was edited by hand, remove it and run site.yml: no password is lost by that"
        ) from None
    try:
        before = _cache_users.read(passwords.text)
    except _cache_users.UsersError as error:
        raise _cache_users.UsersError(f"{passwords.where}: {error}") from None

    hashes = {name: lines[index].partition(":")[2].strip() for name, index in places.items()}
    try:
        state = _stepped(params, before, users, hashes, now)
        accounts = _cache_users.accounts(state, users)
    except _cache_users.UsersError as error:
        raise _cache_users.UsersError(str(error) if str(error).startswith("registry_cache_") else f"users: {error}") from None

    changed = bool(before or state) and _cache_users.write(state) != passwords.text
    # To check, a ready-made hash is held against its password, and nothing else is hashed.
    hashed = accounts if params["step"] != "check" else [one for one in accounts if one.hash]
    try:
        # What is thrown away need not be strong.
        made = _LEAST_COST if module.check_mode else _COST
        text, actions = _htpasswd.apply(htpasswd.text, hashed, _COST, True, made_cost=made)
        _htpasswd.parse(text)
    except _htpasswd.UserError as error:
        raise _cache_users.UsersError(f"users: {error}") from None
    if params["step"] == "check":
        actions = {}
    elif not module.check_mode:
        # In this order the htpasswd file never has what the other does not know.
        if changed:
            passwords.write(_cache_users.write(state))
        if actions or not htpasswd.text:
            htpasswd.write(text)
    old, new = _cache_users.describe(before), _cache_users.describe(state)
    done = [f"{name} ({action} in htpasswd)" for name, action in sorted(actions.items())]
    return {
        "changed": params["step"] != "check" and bool(changed or actions),
        "users": new,
        "rotating": _cache_users.rotating(state),
        "dropped": _cache_users.dropped(state),
        "due_in": _cache_users.due_in(state, now),
        "added": sorted(name for name, action in actions.items() if action != "removed"),
        "diff": {"before": "".join(f"{line}\n" for line in old), "after": "".join(f"{line}\n" for line in new + done)},
        # Ansible would look for each password in each text of it.
        "invocation": {"module_args": {name: value for name, value in params.items() if name not in ("users", "api_key", "password")}},
    }


def main() -> None:
    spec = {
        "name": {"type": "str", "default": "registry-cache"},
        "namespace": {"type": "str", "default": "registry-cache"},
        "users": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": {
                "name": {"type": "str", "required": True},
                "password": {"type": "str", "no_log": True},
                "hash": {"type": "str", "no_log": True},
            },
        },
        "step": {
            "type": "str",
            "choices": ["check", "keep", "begin", "switch", "note", "drop", "finish"],
            "default": "keep",
        },
        "rotate": {"type": "list", "elements": "str"},
        "grace": {"type": "int", "default": 300},
    }
    module = AnsibleK8SModule(
        module_class=AnsibleModule, argument_spec={**AUTH_ARG_SPEC, **spec}, supports_check_mode=True, check_pyyaml=False
    )
    if library := _htpasswd.missing(["bcrypt"]):
        module.fail_json(msg=missing_required_lib(library))
    host = "the cluster"
    try:
        client = get_api_client(module).client
        host = client.configuration.host
        result = run(module, _pull_secrets.Api(client))
    except _cache_users.UsersError as error:
        module.fail_json(msg=f"{error}. Nothing was changed.")
    except CoreException as error:
        module.fail_json(msg=f"No way to the cluster: {error}. {_WAY_OUT}.")
    except ApiException as error:
        if error.status == 409:
            module.fail_json(msg=f"Somebody else changed the users meanwhile ({_pull_secrets.words(error)}). Run again.")
        module.fail_json(msg=f"{host} refuses: {_pull_secrets.words(error)}. {_WAY_OUT}.")
    except (HTTPError, OSError, ValueError) as error:
        module.fail_json(msg=f"No usable answer from {host}: {error}. {_WAY_OUT}.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
