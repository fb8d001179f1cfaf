# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: cache_reference
short_description: Rewrite an image reference to pull through the cache
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Replaces the registry of an image reference with the cache. The repository, tag and digest stay the same.
  - Fails if the reference's registry is not an upstream of the cache, because the cache would look for the image in another registry.
    A reference that already names the cache is returned unchanged.
options:
  _input:
    description: Image reference at the upstream.
    type: str
    required: true
  upstreams:
    description: Upstreams of the cache, as in variable C(registry_cache_upstreams) of role C(cache), or only their hosts.
    type: list
    elements: raw
    required: true
  endpoint:
    description: Host and port at which the nodes reach the cache.
    type: str
    default: localhost:30026
"""

EXAMPLES = r"""
- name: Run a pod with image localhost:30026/p/r/i:1.0
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

- name: Name only the upstream's host, and use another address of the cache
  ansible.builtin.debug:
    msg: "{{ 'us-central1-docker.pkg.dev/p/r/i:1.0'
      | pullthrough.registry_cache.cache_reference(['us-central1-docker.pkg.dev'], endpoint='cache.example.com') }}"
"""

RETURN = r"""
_value:
  description: Image reference that names the cache.
  type: str
"""

import typing as t
from collections.abc import Mapping

from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.collections import is_sequence
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import reference as image_reference

_UPSTREAMS = "Example: upstreams=['us-central1-docker.pkg.dev']"


def _hosts(upstreams: t.Any) -> list[str]:
    """Return the hosts of the upstreams. Raise AnsibleFilterError for anything else."""
    if not is_sequence(upstreams) or not upstreams:
        raise AnsibleFilterError(f"cache_reference: upstreams must be a non-empty list. {_UPSTREAMS}")
    hosts: list[t.Any] = [upstream.get("host") if isinstance(upstream, Mapping) else upstream for upstream in upstreams]
    for host in hosts:
        if not image_reference.is_host(host):
            raise AnsibleFilterError(f"cache_reference: upstreams must name registry hosts (got '{host}'). {_UPSTREAMS}")
    return hosts


def cache_reference(value: t.Any, upstreams: t.Any = None, endpoint: str = "localhost:30026") -> str:
    if not isinstance(value, str):
        raise AnsibleFilterError(
            f"cache_reference: the input must be a string (got {type(value).__name__}). Example: {image_reference.EXAMPLE}"
        )
    try:
        image = image_reference.parse(value)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error
    hosts = _hosts(upstreams)
    if not image_reference.is_host(endpoint):
        raise AnsibleFilterError(
            f"cache_reference: endpoint must be a host with an optional port (got '{endpoint}'). Example: endpoint='localhost:30026'"
        )
    served = {image_reference.canonical_host(host) for host in [*hosts, endpoint]}
    if image_reference.canonical_host(image.registry) not in served:
        raise AnsibleFilterError(
            f"cache_reference: '{value}' is in registry {image.registry}, which is not an upstream of the cache ({', '.join(hosts)})."
            f" Pull it directly, or use an image of an upstream. Example: {hosts[0]}/my-project/my-repository/my-image:1.0"
        )
    tag = f":{image.tag}" if image.tag else ""
    digest = f"@{image.digest}" if image.digest else ""
    return f"{endpoint}/{image.repository}{tag}{digest}"


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"cache_reference": cache_reference}
