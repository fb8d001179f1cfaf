#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_objects_info
short_description: Look at the objects of a cache in its cluster
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Says which objects of the names that role C(cache) uses exist, and which of them belong to the cache. An object belongs to it if
    its labels C(app.kubernetes.io/managed-by), C(app.kubernetes.io/instance) and C(registry-cache.pullthrough/namespace) say so.
  - Asks for all of them at once. It reads the content of no Secret.
options:
  node_port:
    description: A port of which to find the Services in all namespaces. Without it, no Service of another namespace is read.
    type: int
  service:
    description: The name of the cache's Service that has the NodePort; O(name) if not given.
    type: str
  monitors:
    description: Whether to ask for the kinds of the Prometheus operator.
    type: bool
    default: false
requirements:
  - kubernetes
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.cache
  - pullthrough.registry_cache.attributes.read
notes:
  - The caller needs C(get) on the objects and on the namespaces of the cache and C(kube-system), and with O(node_port) C(list) on
    Services in all namespaces.
seealso:
  - module: pullthrough.registry_cache.cache_objects_prune
"""

EXAMPLES = r"""
- name: Look at a cache and at the Services of its port
  pullthrough.registry_cache.cache_objects_info:
    namespace: registry-cache
    node_port: 30026
"""

RETURN = r"""
cluster:
  description: The uid of namespace C(kube-system), which names the cluster.
  returned: success
  type: str
cache:
  description: Cluster, namespace and name. Two that are the same are one cache.
  returned: success
  type: str
  sample: 5b8a1c1e-6d1f-4f0e-9a59-0d2f2a3c7b11/registry-cache/registry-cache
namespace:
  description: The namespace of the cache.
  returned: success
  type: dict
  contains:
    exists:
      description: Whether it exists.
      type: bool
    terminating:
      description: Whether it is being deleted.
      type: bool
    created:
      description: Whether role C(cache) has created it for this cache.
      type: bool
objects:
  description: The objects that belong to the cache.
  returned: success
  type: list
  elements: str
  sample: [StatefulSet registry-cache, Service registry-cache]
foreign:
  description: The objects of the same names that do not, and who manages them.
  returned: success
  type: list
  elements: str
  sample: [Service registry-cache (managed by Helm)]
missing_kinds:
  description: The kinds of the Prometheus operator that the cluster does not have.
  returned: success
  type: list
  elements: str
node_port:
  description: The option O(node_port).
  returned: success
  type: int
node_port_services:
  description: The Services that have O(node_port), as C(namespace/name).
  returned: success
  type: list
  elements: str
stateful_set:
  description: The StatefulSet of that name; empty if there is none.
  returned: success
  type: dict
"""

import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.cache_objects import cache_of, info
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import CACHE_OPTIONS, cluster_module, run


def look(module: t.Any, client: Client) -> dict[str, t.Any]:
    """The result. Raises ClusterError."""
    params = module.params
    return {"changed": False, **info(client, cache_of(params), params["node_port"], params["monitors"], params["service"])}


def main() -> None:
    spec = {"node_port": {"type": "int"}, "service": {"type": "str"}, "monitors": {"type": "bool", "default": False}}
    run(cluster_module({**CACHE_OPTIONS, **spec}), look)


if __name__ == "__main__":
    main()
