#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_objects_info
short_description: Get the objects of a cache
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Reports which of the objects that role C(cache) uses exist, and which of them belong to the cache. An object belongs to a cache if
    its labels C(app.kubernetes.io/managed-by), C(app.kubernetes.io/instance) and C(registry-cache.pullthrough/namespace) match.
  - Reads all objects in parallel. It never reads the content of a Secret.
options:
  node_port:
    description: NodePort for which to find Services in all namespaces. If not set, Services of other namespaces are not read.
    type: int
  service:
    description: The name of the cache's Service that has the NodePort; O(name) if not given.
    type: str
  monitors:
    description: Whether to check for the kinds of the Prometheus operator.
    type: bool
    default: false
requirements:
  - kubernetes
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.cache
  - pullthrough.registry_cache.attributes.read
notes:
  - The caller needs the permission C(get) on the objects, on the namespace of the cache and on namespace C(kube-system). O(node_port)
    needs the permission C(list) on Services in all namespaces.
seealso:
  - module: pullthrough.registry_cache.cache_objects_prune
"""

EXAMPLES = r"""
- name: Get the objects of a cache, and the Services with its NodePort
  pullthrough.registry_cache.cache_objects_info:
    namespace: registry-cache
    node_port: 30026
"""

RETURN = r"""
cluster:
  description: UID of namespace C(kube-system), which identifies the cluster.
  returned: success
  type: str
cache:
  description: Cluster, namespace and name of the cache. Two results with the same value describe the same cache.
  returned: success
  type: str
  sample: 5b8a1c1e-6d1f-4f0e-9a59-0d2f2a3c7b11/registry-cache/registry-cache
namespace:
  description: Namespace of the cache.
  returned: success
  type: dict
  contains:
    exists:
      description: Whether the namespace exists.
      type: bool
    terminating:
      description: Whether the namespace is being deleted.
      type: bool
    created:
      description: Whether role C(cache) created the namespace for this cache.
      type: bool
objects:
  description: Objects that belong to the cache.
  returned: success
  type: list
  elements: str
  sample: [StatefulSet registry-cache, Service registry-cache]
foreign:
  description: Objects with the same names that do not belong to the cache, and who manages them.
  returned: success
  type: list
  elements: str
  sample: [Service registry-cache (managed by Helm)]
missing_kinds:
  description: Kinds of the Prometheus operator that the cluster does not have. Empty without O(monitors).
  returned: success
  type: list
  elements: str
node_port:
  description: Value of option O(node_port).
  returned: success
  type: int
node_port_services:
  description: Services that use O(node_port), as C(namespace/name).
  returned: success
  type: list
  elements: str
stateful_set:
  description: StatefulSet of the cache. Empty if it does not exist.
  returned: success
  type: dict
"""

import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.cache_objects import cache_of, info
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import CACHE_OPTIONS, cluster_module, run


def look(module: t.Any, client: Client) -> dict[str, t.Any]:
    """Return the result of the module. Raise ClusterError."""
    params = module.params
    return {"changed": False, **info(client, cache_of(params), params["node_port"], params["monitors"], params["service"])}


def main() -> None:
    spec = {"node_port": {"type": "int"}, "service": {"type": "str"}, "monitors": {"type": "bool", "default": False}}
    run(cluster_module({**CACHE_OPTIONS, **spec}), look)


if __name__ == "__main__":
    main()
