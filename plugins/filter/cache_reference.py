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
  - A reference of a registry that is not an upstream of the cache is an error, since the cache would look for it in another
    registry. One that names the cache already stays as it is.
options:
  _input:
    description: The reference as the upstream has it.
    type: str
    required: true
  upstreams:
    description: The cache's upstreams, as role C(cache) takes them, or their hosts.
    type: list
    elements: raw
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
            image: "{{ 'us-central1-docker.pkg.dev/p/r/i:1.0'
              | pullthrough.registry_cache.cache_reference(upstreams) }}"

- name: The same with the upstream's host, and with the cache under a name of its own
  ansible.builtin.debug:
    msg: "{{ 'us-central1-docker.pkg.dev/p/r/i:1.0'
      | pullthrough.registry_cache.cache_reference(['us-central1-docker.pkg.dev'], endpoint='cache.example.com') }}"
"""

RETURN = r"""
_value:
  description: The reference through the cache.
  type: str
"""

import typing as t
from collections.abc import Mapping

from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.collections import is_sequence
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import reference as image_reference

_UPSTREAMS = "Example: upstreams=['us-central1-docker.pkg.dev']"


def _hosts(upstreams: t.Any) -> list[str]:
    """The upstreams' hosts."""
    if not is_sequence(upstreams) or not upstreams:
        raise AnsibleFilterError(f"cache_reference: upstreams must be a non-empty list. {_UPSTREAMS}")
    hosts: list[t.Any] = [upstream.get("host") if isinstance(upstream, Mapping) else upstream for upstream in upstreams]
    for host in hosts:
        if not image_reference.is_host(host):
            raise AnsibleFilterError(f"cache_reference: upstreams holds '{host}', which is not a registry's host. {_UPSTREAMS}")
    return hosts


def cache_reference(value: t.Any, upstreams: t.Any = None, endpoint: str = "localhost:30026") -> str:
    if not isinstance(value, str):
        raise AnsibleFilterError(f"cache_reference takes a string. Example: {image_reference.EXAMPLE}")
    try:
        image = image_reference.parse(value)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error
    hosts = _hosts(upstreams)
    if not image_reference.is_host(endpoint):
        raise AnsibleFilterError(f"the endpoint '{endpoint}' is not a host with its port. Example: localhost:30026")
    served = {image_reference.canonical_host(host) for host in [*hosts, endpoint]}
    if image_reference.canonical_host(image.registry) not in served:
        raise AnsibleFilterError(
            f"'{value}' is of the registry {image.registry}, which is not an upstream of the cache ({', '.join(hosts)})."
            f" Pull it from there, or name an image of an upstream. Example: {hosts[0]}/my-project/my-repository/my-image:1.0"
        )
    tag = f":{image.tag}" if image.tag else ""
    digest = f"@{image.digest}" if image.digest else ""
    return f"{endpoint}/{image.repository}{tag}{digest}"


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"cache_reference": cache_reference}
