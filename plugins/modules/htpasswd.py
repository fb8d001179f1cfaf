#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: htpasswd
short_description: Manage the users of an htpasswd file or text
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Brings many users of an htpasswd file, or of a text such as a Secret's content, to a wanted state in one task.
  - A user's hash is kept while it verifies and is bcrypt of the wanted cost, so that a rerun changes nothing.
  - Comments and the order of lines are kept. A malformed or repeated line is an error that names its number.
options:
  path:
    description:
      - The file. It is made if missing, and written as a whole or not at all.
      - Exactly one of O(path) and O(content) is required.
    type: path
  content:
    description:
      - The text as it is; the new text is returned. An empty text makes a new one.
      - It holds hashes, so set C(no_log) on the task.
    type: str
  users:
    description: The users.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The user's name.
        type: str
        required: true
      password:
        description: The password, of at most 72 bytes. Required with O(users[].state=present).
        type: str
      state:
        description: Whether the user is there.
        type: str
        choices: [present, absent]
        default: present
  exclusive:
    description: Whether users that O(users) does not name are removed.
    type: bool
    default: false
  cost:
    description: The cost of bcrypt as a power of two, from 4 to 17. A hash of another cost is made anew.
    type: int
    default: 10
  mode:
    description: The file's mode.
    default: "0600"
requirements:
  - libpass (the maintained drop-in for passlib)
  - bcrypt
extends_documentation_fragment:
  - ansible.builtin.files
attributes:
  check_mode:
    description: Can run in check mode and tell what would change.
    support: full
  diff_mode:
    description: Shows names only, never a password or hash.
    support: full
"""

EXAMPLES = r"""
- name: Two users and no other
  pullthrough.registry_cache.htpasswd:
    path: /etc/registry/htpasswd
    exclusive: true
    users:
      - name: nodes
        password: "{{ vault_nodes_password }}"
      - name: ci
        password: "{{ vault_ci_password }}"

- name: The content of a Secret
  pullthrough.registry_cache.htpasswd:
    content: "{{ secret.data.htpasswd | b64decode }}"
    users:
      - name: nodes
        password: "{{ vault_nodes_password }}"
  register: result
  no_log: true
"""

RETURN = r"""
users:
  description: The names of all users afterwards, in the order of their lines.
  returned: success
  type: list
  elements: str
content:
  description: The new text. It holds hashes, so set C(no_log) on the task.
  returned: with O(content)
  type: str
"""

import os
import tempfile

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.pullthrough.registry_cache.plugins.module_utils import _htpasswd


def _read(module):
    if module.params["path"] is None:
        return module.params["content"]
    try:
        # Without newline the lines that are kept would lose their carriage returns.
        with open(module.params["path"], encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        module.fail_json(msg=f"path {module.params['path']} cannot be read: {error}")


def _write(module, text):
    """0600 from its first byte on, then moved into place whole."""
    descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    # atomic_move gives a new file what the umask leaves.
    umask = os.umask(0o077)
    try:
        module.atomic_move(temporary, module.params["path"])
    finally:
        os.umask(umask)


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path"},
            # Not no_log: Ansible would blank the same text in what is returned. The caller's task has no_log.
            "content": {"type": "str", "no_log": False},
            "users": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "password": {"type": "str", "no_log": True},
                    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                },
            },
            "exclusive": {"type": "bool", "default": False},
            "cost": {"type": "int", "default": 10},
            "mode": {"type": "raw", "default": "0600"},
        },
        mutually_exclusive=[("path", "content")],
        required_one_of=[("path", "content")],
        add_file_common_args=True,
        supports_check_mode=True,
    )
    params = module.params
    if not _htpasswd.usable():
        module.fail_json(msg=missing_required_lib("libpass", reason="(the maintained drop-in for passlib), with bcrypt,"))
    if params["cost"] not in _htpasswd.COSTS:
        module.fail_json(msg=f"cost {params['cost']} is not from 4 to 17. Example: cost: 10")
    before = _read(module)
    users = [_htpasswd.User(user["name"], user["password"], user["state"] == "present") for user in params["users"]]
    try:
        after, actions = _htpasswd.apply(before, users, params["cost"], params["exclusive"])
    except _htpasswd.HtpasswdError as error:
        source = params["path"] or "content"
        module.fail_json(msg=f"{source}: {error}. Nothing was changed.")

    old_names, names = list(_htpasswd.parse(before)[1]), list(_htpasswd.parse(after)[1])
    result = {
        "changed": bool(actions),
        "users": names,
        "diff": {
            "before": "".join(f"{name}\n" for name in old_names),
            "after": "".join(f"{name} ({actions[name]})\n" if name in actions else f"{name}\n" for name in names),
        },
    }
    if params["path"] is None:
        result["content"] = after
    else:
        if not os.path.exists(params["path"]):
            result["changed"] = True
        if result["changed"] and not module.check_mode:
            _write(module, after)
        if os.path.exists(params["path"]):
            arguments = module.load_file_common_arguments(params)
            result["changed"] = module.set_fs_attributes_if_different(arguments, result["changed"])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
