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
  - Manages many users of an htpasswd file, or of text such as the content of a Secret, in one task.
  - Keeps the hash of a user if it matches the password and has an accepted scheme and the requested cost, so a second run changes
    nothing. Hashes are verified on all processors in parallel.
  - Keeps comments and the order of lines, in any encoding. Malformed and duplicate lines are errors. The message contains their line
    numbers.
options:
  path:
    description:
      - Path of the file. It is created if missing, and replaced atomically. If it is a symbolic link, the target is replaced.
      - The owner, group and mode of an existing file are kept, unless O(owner), O(group) or O(mode) is set.
      - If the file belongs to another user, only root may change it.
      - Exactly one of O(path) and O(content) is required.
    type: path
  content:
    description:
      - Current text. The new text is returned as RV(content). Use an empty string to start a new text.
      - The text contains hashes, so set C(no_log) on the task.
    type: str
  users:
    description: Users to manage.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      password:
        description:
          - Password, with at most 72 bytes.
          - This or O(users[].hash) is required with O(users[].state=present).
        type: str
      hash:
        description:
          - Hash to write without changes. If O(users[].password) is also set, the hash must match it.
        type: str
      state:
        description: Whether the user must exist.
        type: str
        choices: [present, absent]
        default: present
  create:
    description: Whether to create a missing file. With V(false), a missing file is an error.
    type: bool
    default: true
  exclusive:
    description: Whether to remove users that are not in O(users).
    type: bool
    default: false
  cost:
    description: Cost of new bcrypt hashes, as a power of two from 4 to 17. A bcrypt hash with another cost is replaced.
    type: int
    default: 10
  schemes:
    description:
      - Schemes of existing hashes to keep if they match the password. New hashes always use bcrypt, because registries accept no other
        scheme.
      - Schemes other than V(bcrypt) need libpass or passlib.
    type: list
    elements: str
    choices: [bcrypt, apr_md5_crypt, sha256_crypt, sha512_crypt, ldap_sha1]
    default: [bcrypt]
  mode:
    description:
      - Mode of the file, such as V('0640'). If not set, a new file has mode V('0600') and an existing file keeps its mode.
requirements:
  - bcrypt
  - libpass, the maintained replacement of passlib, for O(schemes) other than V(bcrypt)
extends_documentation_fragment:
  - ansible.builtin.files
attributes:
  check_mode:
    description: Reports what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows names, owner, group and mode, never a password or hash.
    support: full
"""

EXAMPLES = r"""
- name: Manage a file with exactly two users
  pullthrough.registry_cache.htpasswd:
    path: /etc/registry/htpasswd
    exclusive: true
    users:
      - name: nodes
        password: "{{ vault_nodes_password }}"
      - name: ci
        password: "{{ vault_ci_password }}"

- name: Move the users of a web server to bcrypt when their passwords change, and write an existing hash
  pullthrough.registry_cache.htpasswd:
    path: /etc/nginx/htpasswd # from the web server's package, with its owner and mode
    create: false
    schemes: [bcrypt, apr_md5_crypt]
    users:
      - name: alice
        password: "{{ vault_alice_password }}"
      - name: bob
        hash: $2y$10$dRK7zBkOYMCSLhRmoUBMkuMNtPuLQxNNDchJvPM0mBXz8HYqGLJ3O

- name: Update the content of a Secret
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
  description: Names of all users after the run, in the order of their lines.
  returned: success
  type: list
  elements: str
content:
  description: New text. It contains hashes, so set C(no_log) on the task.
  returned: with O(content)
  type: str
"""

import os
import stat
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import htpasswd

# Keep bytes that are not valid UTF-8, such as those of a comment in Latin-1.
_TEXT: dict[str, t.Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def _read(module: AnsibleModule, path: str) -> tuple[str, os.stat_result | None]:
    """Return the text and the status of a file that this process may replace without changing its owner. Otherwise fail the module."""
    given = module.params["path"]
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        module.fail_json(msg=f"path: directory {folder} of {given} does not exist. Create it first. Example: mkdir -p {folder}")
    try:
        with open(path, **_TEXT) as file:
            status = os.fstat(file.fileno())
            text = file.read()
    except FileNotFoundError:
        if not module.params["create"]:
            module.fail_json(
                msg=f"path: file {given} does not exist, and create is false. Create it first, or allow the module to create it."
                " Example: create: true"
            )
        return "", None
    except OSError as error:
        module.fail_json(
            msg=f"path: {given} cannot be read: {error}. Name a text file, and run the task as its owner or as root. Example: become: true"
        )
    if os.geteuid() not in (0, status.st_uid):
        module.fail_json(
            msg=f"path: {given} belongs to the user with ID {status.st_uid}. Run the task as that user or as root. Example: become: true"
        )
    return text, status


def _write(module: AnsibleModule, path: str, text: str, status: os.stat_result | None) -> None:
    """Write a copy with the attributes of the file, then move it to the path atomically.

    :param status: status of the existing file, or None for a new one, which has mode 0600 from the start.
    """
    given = module.params["path"]
    unwritten = f"path: {given} cannot be written, and was not changed: %s. Free some space, or allow writing to its directory"
    try:
        descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
        module.add_cleanup_file(temporary)
        with os.fdopen(descriptor, "w", **_TEXT) as file:
            file.write(text)
    except OSError as error:
        module.fail_json(msg=unwritten % error)
    # Set attributes on the copy first, so that a failure leaves the file unchanged.
    if status:
        try:
            os.chown(temporary, status.st_uid, status.st_gid if module.params["group"] is None else -1)
        except OSError as error:
            module.fail_json(
                msg=f"path: {given} has the group with ID {status.st_gid}, which the new file cannot have ({error.strerror})."
                " Run the task as root or as a member of that group, or set another group. Example: group: www-data"
            )
        os.chmod(temporary, stat.S_IMODE(status.st_mode))
    arguments = module.load_file_common_arguments(module.params, temporary)
    module.set_fs_attributes_if_different({**arguments, "attributes": None}, False)
    # atomic_move applies the umask to a new file.
    umask = os.umask(0o077)
    try:
        module.atomic_move(temporary, path, unsafe_writes=module.params["unsafe_writes"])
    # It raises a plain Exception, with the cause attached.
    except Exception as error:
        module.fail_json(msg=unwritten % (error.__cause__ or error))
    finally:
        os.umask(umask)


def _attributes(changes: dict[str, dict[str, t.Any]], side: str) -> str:
    """Return diff lines for the attributes that change. The colon distinguishes them from user names, which contain none."""
    return "".join(f"{name}: {value}\n" for name, value in sorted(changes.get(side, {}).items()) if name != "path")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path"},
            # With no_log, Ansible would remove this text from the result. The user sets no_log on the task.
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
            msg="schemes: passlib and libpass are both installed and overwrite each other's files. Uninstall both, then install libpass,"
            " or use only bcrypt, which needs neither. Example: schemes: [bcrypt]"
        )
    if params["cost"] not in htpasswd.COSTS:
        module.fail_json(msg=f"cost: must be from 4 to 17 (got {params['cost']}). Example: cost: 10")
    # Write to the target of a symbolic link, so that the link stays.
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
        # Without the secrets, because Ansible would search each text of the result for each password.
        "invocation": {"module_args": {name: value for name, value in params.items() if name not in ("users", "content")}},
        "diff": {"before": "".join(f"{htpasswd.shown(name)}\n" for name in old_names), "after": "".join(lines)},
    }
    if path is None:
        for user in users:
            if user.password and user.password in after:
                module.fail_json(
                    msg=f"users: the password of user '{user.name}' also occurs in the returned content, where Ansible would mask it."
                    " Choose a longer one. Nothing was changed."
                )
        # Ansible would also mask a given hash, which belongs in the text.
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
