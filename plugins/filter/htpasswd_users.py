# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: htpasswd_users
short_description: Turn the text of an htpasswd file into users of the cache
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Returns a user with a ready-made hash for each line, as role C(cache) takes them in C(registry_cache_users). Passwords stay the same, so
    that pull secrets stay valid.
  - The collection cannot write pull secrets for these users, because that needs the password.
options:
  _input:
    description: The text, such as V(registryHtpasswd) of a Pulumi program. Empty lines and comments are ignored.
    type: str
    required: true
"""

EXAMPLES = r"""
registry_cache_users: "{{ vault_registry_htpasswd | pullthrough.registry_cache.htpasswd_users + [{'name': 'nodes'}] }}"
"""

RETURN = r"""
_value:
  description: The users, in the order of the lines.
  type: list
  elements: dict
  sample: [{name: ci, hash: $2y$10$..., pull_secret: {namespaces: []}}]
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import htpasswd


def htpasswd_users(text: str) -> list[dict[str, t.Any]]:
    """Users with hashes. Raises AnsibleFilterError for what is no htpasswd file."""
    if not isinstance(text, str):
        raise AnsibleFilterError("htpasswd_users: the input must be the text of an htpasswd file. Example: ci:$2y$10$...")
    try:
        lines, places = htpasswd.parse(text)
    except htpasswd.TextError as error:
        raise AnsibleFilterError(f"htpasswd_users: {error}. Example: ci:$2y$10$...") from None
    return [
        {"name": name, "hash": lines[index].partition(":")[2].strip(), "pull_secret": {"namespaces": []}}
        for name, index in places.items()
    ]


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"htpasswd_users": htpasswd_users}
