# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: cache_reference
short_description: Rewrite an image reference so that it is pulled through the cache
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Puts the cache in the place of a reference's registry. Repository, tag and digest stay.
options:
  _input:
    description: The reference as the upstream has it.
    type: str
    required: true
  endpoint:
    description: The cache as the nodes reach it, a host with its port.
    type: str
    default: localhost:30026
"""

EXAMPLES = r"""
- name: A pod that pulls through the cache, from localhost:30026/p/r/i:1.0
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: Pod
      metadata:
        name: example
        namespace: default
      spec:
        containers:
          - name: example
            image: "{{ 'us-central1-docker.pkg.dev/p/r/i:1.0' | pullthrough.registry_cache.cache_reference }}"
"""

RETURN = r"""
_value:
  description: The reference through the cache.
  type: str
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils import _image_reference


def cache_reference(value: t.Any, endpoint: str = "localhost:30026") -> str:
    if not isinstance(value, str):
        raise AnsibleFilterError(f"cache_reference takes a string. Example: {_image_reference.EXAMPLE}")
    try:
        image = _image_reference.parse(value)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error
    if not _image_reference.is_host(endpoint):
        raise AnsibleFilterError(f"the endpoint '{endpoint}' is not a host with its port. Example: localhost:30026")
    tag = f":{image.tag}" if image.tag else ""
    digest = f"@{image.digest}" if image.digest else ""
    return f"{endpoint}/{image.repository}{tag}{digest}"


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"cache_reference": cache_reference}
