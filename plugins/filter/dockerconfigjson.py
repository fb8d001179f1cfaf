# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: dockerconfigjson
short_description: Make the content of a pull secret
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Makes the text of a Secret of type C(kubernetes.io/dockerconfigjson) that holds one credential for several hosts.
  - The same input gives the same text, so that a rerun changes nothing.
options:
  _input:
    description: The registry hosts, with port where they have one.
    type: list
    elements: str
    required: true
  username:
    description: The user.
    type: str
    required: true
  password:
    description: The password.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: A pull secret
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
  description: The JSON text.
  type: str
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils import _dockerconfigjson


def dockerconfigjson(hosts: t.Any, username: t.Any, password: t.Any) -> str:
    if isinstance(hosts, str) or not hosts:
        raise AnsibleFilterError("dockerconfigjson takes a list of hosts. Example: ['localhost:30026']")
    # A number of YAML would not be a credential of the kubelet's.
    return _dockerconfigjson.render(hosts, str(username), str(password))


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"dockerconfigjson": dockerconfigjson}
