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
  - A user's hash is kept while it verifies and is of a wanted scheme and cost, so that a rerun changes nothing. Users are
    verified on all processors.
  - Comments and the order of lines are kept, in whatever encoding they are. Malformed and repeated lines are an error that names
    their numbers.
options:
  path:
    description:
      - The file. It is made if missing, and written as a whole or not at all. Of a symbolic link the target is written.
      - Its owner, group and mode stay as they are, unless O(owner), O(group) or O(mode) is set.
      - A file that belongs to another user is refused, unless root asks.
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
        description:
          - The password, of at most 72 bytes.
          - With O(users[].state=present) this or O(users[].hash) is required.
        type: str
      hash:
        description:
          - A ready-made hash, taken as it is. With O(users[].password) too, it must be that password's.
        type: str
      state:
        description: Whether the user is there.
        type: str
        choices: [present, absent]
        default: present
  create:
    description: Whether a missing file is made. If not, it is an error.
    type: bool
    default: true
  exclusive:
    description: Whether users that O(users) does not name are removed.
    type: bool
    default: false
  cost:
    description: The cost of bcrypt as a power of two, from 4 to 17. A bcrypt hash of another cost is made anew.
    type: int
    default: 10
  schemes:
    description:
      - Schemes of which an existing hash is kept while it verifies. A new one is bcrypt, which is all that a registry reads.
      - Others than V(bcrypt) need libpass or passlib.
    type: list
    elements: str
    choices: [bcrypt, apr_md5_crypt, sha256_crypt, sha512_crypt, ldap_sha1]
    default: [bcrypt]
  mode:
    description:
      - The file's mode, such as V('0640'). Without it a new file gets V('0600'), and an existing file keeps its own.
requirements:
  - bcrypt
  - libpass, the maintained drop-in for passlib, for O(schemes) other than V(bcrypt)
extends_documentation_fragment:
  - ansible.builtin.files
attributes:
  check_mode:
    description: Can run in check mode and tell what would change.
    support: full
  diff_mode:
    description: Shows names, owner, group and mode, never a password or hash.
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

- name: Users of a web server move to bcrypt when their password changes; what htpasswd has printed is taken as it is
  pullthrough.registry_cache.htpasswd:
    path: /etc/nginx/htpasswd # of the web server's package, with the owner and mode that it needs
    create: false
    schemes: [bcrypt, apr_md5_crypt]
    users:
      - name: alice
        password: "{{ vault_alice_password }}"
      - name: bob
        hash: $2y$10$dRK7zBkOYMCSLhRmoUBMkuMNtPuLQxNNDchJvPM0mBXz8HYqGLJ3O

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
import stat
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import htpasswd

# Bytes that are no UTF-8, such as those of a comment in Latin-1, stay as they are.
_TEXT: dict[str, t.Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def _read(module: AnsibleModule, path: str) -> tuple[str, os.stat_result | None]:
    """The text of a file that this process may replace without taking it from its owner, and what the file is like."""
    given = module.params["path"]
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        module.fail_json(msg=f"path {given}: there is no directory {folder}. Make it first")
    try:
        with open(path, **_TEXT) as file:
            status = os.fstat(file.fileno())
            text = file.read()
    except FileNotFoundError:
        if not module.params["create"]:
            module.fail_json(
                msg=f"path {given}: there is no such file, and create is false. Make it first, or let the module make it."
                " Example: create: true"
            )
        return "", None
    except OSError as error:
        module.fail_json(msg=f"path {given} cannot be read: {error}. Name a text file, and run the task as its owner or root")
    if os.geteuid() not in (0, status.st_uid):
        module.fail_json(msg=f"path {given} belongs to the user with id {status.st_uid}. Run the task as that user or as root")
    return text, status


def _write(module: AnsibleModule, path: str, text: str, status: os.stat_result | None) -> None:
    """Write a copy that has the attributes of the file, then move it into place whole.

    :param status: what the existing file is like; None for a new one, which is 0600 from its first byte on.
    """
    given = module.params["path"]
    unwritten = f"path {given} cannot be written, and is as it was: %s. Make room, or allow the write"
    try:
        descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
        module.add_cleanup_file(temporary)
        with os.fdopen(descriptor, "w", **_TEXT) as file:
            file.write(text)
    except OSError as error:
        module.fail_json(msg=unwritten % error)
    # On the copy first: an owner, group or mode that cannot be leaves the file as it was.
    if status:
        try:
            os.chown(temporary, status.st_uid, status.st_gid if module.params["group"] is None else -1)
        except OSError as error:
            module.fail_json(
                msg=f"path {given} is of the group with id {status.st_gid}, which the new file cannot be given ({error.strerror})."
                " Run the task as root or as a member of that group, or set another one. Example: group: www-data"
            )
        os.chmod(temporary, stat.S_IMODE(status.st_mode))
    arguments = module.load_file_common_arguments(module.params, temporary)
    module.set_fs_attributes_if_different({**arguments, "attributes": None}, False)
    # atomic_move gives a new file what the umask leaves.
    umask = os.umask(0o077)
    try:
        module.atomic_move(temporary, path, unsafe_writes=module.params["unsafe_writes"])
    # It raises a bare Exception, from its cause.
    except Exception as error:
        module.fail_json(msg=unwritten % (error.__cause__ or error))
    finally:
        os.umask(umask)


def _attributes(changes: dict[str, dict[str, t.Any]], side: str) -> str:
    """Lines of a diff for the attributes that change; a colon is in no user's name."""
    return "".join(f"{name}: {value}\n" for name, value in sorted(changes.get(side, {}).items()) if name != "path")


def main() -> None:
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
                    "hash": {"type": "str", "no_log": True},
                    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                },
            },
            "create": {"type": "bool", "default": True},
            "exclusive": {"type": "bool", "default": False},
            "cost": {"type": "int", "default": 10},
            "schemes": {"type": "list", "elements": "str", "choices": list(htpasswd.SCHEMES), "default": ["bcrypt"]},
        },
        mutually_exclusive=[("path", "content")],
        required_one_of=[("path", "content")],
        add_file_common_args=True,
        supports_check_mode=True,
    )
    params = module.params
    if library := htpasswd.missing(params["schemes"]):
        module.fail_json(msg=missing_required_lib(library))
    if htpasswd.clashes(params["schemes"]):
        module.fail_json(
            msg="schemes: passlib and libpass are both installed, each over the other's files."
            " Uninstall both, then install libpass. Or set schemes: [bcrypt], which needs neither"
        )
    if params["cost"] not in htpasswd.COSTS:
        module.fail_json(msg=f"cost {params['cost']} is not from 4 to 17. Example: cost: 10")
    # A link stays one.
    path = params["path"] and os.path.realpath(params["path"])
    before, status = (params["content"], None) if path is None else _read(module, path)
    users = [htpasswd.User(user["name"], user["password"], user["state"] == "present", user["hash"]) for user in params["users"]]
    try:
        after, actions = htpasswd.apply(before, users, params["cost"], params["exclusive"], params["schemes"])
    except htpasswd.UserError as error:
        module.fail_json(msg=f"users: {error}. Nothing was changed.")
    except htpasswd.TextError as error:
        module.fail_json(msg=f"{params['path'] or 'content'}: {error}. Nothing was changed.")

    old_names, names = list(htpasswd.parse(before)[1]), list(htpasswd.parse(after)[1])
    lines = [f"{htpasswd.shown(name)} ({actions[name]})\n" if name in actions else f"{htpasswd.shown(name)}\n" for name in names]
    result: dict[str, t.Any] = {
        "changed": bool(actions),
        "users": [htpasswd.shown(name) for name in names],
        # Without what holds secrets: Ansible would look for each password in each text of it.
        "invocation": {"module_args": {name: value for name, value in params.items() if name not in ("users", "content")}},
        "diff": {"before": "".join(f"{htpasswd.shown(name)}\n" for name in old_names), "after": "".join(lines)},
    }
    if path is None:
        for user in users:
            if user.password and user.password in after:
                module.fail_json(
                    msg=f"users: the password of user '{user.name}' is also a part of the text, in which Ansible would blank it."
                    " Choose a longer one. Nothing was changed."
                )
        # So would it a hash that was given, which belongs into the text.
        module.no_log_values.difference_update(user.hash for user in users)
        result["content"] = after
    else:
        result["changed"] |= status is None
        if result["changed"] and not module.check_mode:
            _write(module, path, after, status)
        if os.path.exists(path):
            changes: dict[str, dict[str, t.Any]] = {}
            arguments = module.load_file_common_arguments(params, path)
            result["changed"] = module.set_fs_attributes_if_different(arguments, result["changed"], changes)
            if status:
                result["diff"] = {side: _attributes(changes, side) + text for side, text in result["diff"].items()}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
