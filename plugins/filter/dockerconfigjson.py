# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: dockerconfigjson
short_description: Create the content of a pull secret
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Returns the content of a Secret of type C(kubernetes.io/dockerconfigjson) with one credential for several hosts.
  - The same input gives the same text, so a second run changes nothing.
options:
  _input:
    description: Registry hosts, each with its port if it has one.
    type: list
    elements: str
    required: true
  username:
    description: User name. It must not contain a colon, because HTTP basic authentication ends the name there.
    type: str
    required: true
  password:
    description: Password. Quote it if it consists of digits, because YAML reads unquoted digits as a number.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Create a pull secret
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: Secret
      type: kubernetes.io/dockerconfigjson
      metadata:
        name: registry-cache
        namespace: default
      data:
        .dockerconfigjson: >-
          {{ ['localhost:30026'] | pullthrough.registry_cache.dockerconfigjson('nodes', vault_password) | b64encode }}
  no_log: true
"""

RETURN = r"""
_value:
  description: JSON text.
  type: str
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.collections import is_sequence
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import dockerconfigjson as _dockerconfigjson


def _text(value: t.Any) -> str | None:
    """Return the text of a value, or None if it is not text. Before ansible-core 2.19, an inline vault value is not a str."""
    return str(value) if isinstance(value, str) or getattr(value, "__ENCRYPTED__", False) else None


def dockerconfigjson(hosts: t.Any, username: t.Any, password: t.Any) -> str:
    wanted = [_text(host) for host in hosts] if is_sequence(hosts) else []
    if not wanted or not all(wanted):
        raise AnsibleFilterError(
            "dockerconfigjson: the input must be a non-empty list of hosts, each a non-empty string."
            " Example: ['localhost:30026'] | pullthrough.registry_cache.dockerconfigjson('nodes', vault_password)"
        )
    user = _text(username)
    if not user or ":" in user:
        said = "a colon" if user else "nothing" if user == "" else type(username).__name__
        raise AnsibleFilterError(
            f"dockerconfigjson: username must be a non-empty string without a colon (got {said}). Example: username='nodes'"
        )
    secret = _text(password)
    if not secret:
        said = "nothing" if secret == "" else type(password).__name__
        raise AnsibleFilterError(
            f"dockerconfigjson: password must be a non-empty string (got {said}). Quote it if it is a number."
            " Example: password=vault_password"
        )
    return _dockerconfigjson.render([str(host) for host in wanted], user, secret)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"dockerconfigjson": dockerconfigjson}
