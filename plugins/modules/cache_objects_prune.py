#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_objects_prune
short_description: Remove objects of a cache
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Removes the objects of a cache that are listed neither in O(keep) nor in O(keep_secrets). It considers the kinds that role C(cache)
    writes. An object belongs to a cache if its labels C(app.kubernetes.io/managed-by), C(app.kubernetes.io/instance) and
    C(registry-cache.pullthrough/namespace) match. All other objects are kept, whatever their names. Pull secrets are kept too.
  - Waits until the removed objects are gone.
options:
  keep:
    description:
      - Objects to keep, as for M(pullthrough.registry_cache.cache_objects_apply). Only kinds and names are used.
    type: list
    elements: dict
    default: []
  keep_secrets:
    description: Names of Secrets to keep.
    type: list
    elements: str
    default: []
  remove_namespace:
    description:
      - Whether to delete the namespace too. It is deleted only if role C(cache) created it for this cache and it contains nothing else.
        Otherwise a warning names the other objects. If the namespace is already being deleted, the module waits until it is gone.
    type: bool
    default: false
  timeout:
    description: Maximum time, in seconds, to wait until the objects are gone.
    type: int
    default: 300
requirements:
  - kubernetes
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.cache
  - pullthrough.registry_cache.attributes
attributes:
  diff_mode:
    description: Shows the objects to remove.
    support: full
notes:
  - The caller needs the permissions C(get), C(list) and C(delete) on the objects in the namespace. O(remove_namespace) also needs
    C(delete) on the namespace, and C(list) on Deployments, DaemonSets and PersistentVolumeClaims in it.
seealso:
  - module: pullthrough.registry_cache.cache_objects_info
"""

EXAMPLES = r"""
- name: Remove a cache
  pullthrough.registry_cache.cache_objects_prune:
    namespace: registry-cache
    remove_namespace: true
"""

RETURN = r"""
removed:
  description: Objects that were removed.
  returned: success
  type: list
  elements: str
  sample: [StatefulSet registry-cache]
others:
  description: With O(remove_namespace), objects in the namespace that do not belong to the cache. They prevent its removal.
  returned: success
  type: list
  elements: str
"""

import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.cache_objects import ObjectsError, Prune, cache_of
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import some
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import CACHE_OPTIONS, cluster_module, run


def _kept(params: dict[str, t.Any]) -> set[str]:
    """Return the objects to keep, as Kind/name. Raise ObjectsError."""
    try:
        objects = {f"{item['kind']}/{item['metadata']['name']}" for item in params["keep"]}
    except (LookupError, TypeError):
        raise ObjectsError(
            "keep: each object must have a kind and a name. Example: keep: [{kind: ConfigMap, metadata: {name: registry-cache}}]"
        ) from None
    return objects | {f"Secret/{name}" for name in params["keep_secrets"]}


def remove(module: t.Any, client: Client) -> dict[str, t.Any]:
    """Remove the objects; return the result of the module. Raise ClusterError."""
    params, owner = module.params, cache_of(module.params)
    prune = Prune(client, owner, _kept(params), params["remove_namespace"])
    if prune.others:
        module.warn(
            f"Namespace {owner.namespace} is kept, because it contains objects that do not belong to the cache: {some(prune.others)}."
            f" When they are gone, remove it. Example: kubectl delete namespace {owner.namespace}"
        )
    if not module.check_mode:
        prune.remove(params["timeout"])
    removed = [str(one) for one in prune.removals]
    return {
        "changed": bool(removed),
        "removed": removed,
        "others": prune.others,
        "diff": {"before": "".join(f"{one}\n" for one in removed), "after": ""},
    }


def main() -> None:
    spec = {
        "keep": {"type": "list", "elements": "dict", "default": []},
        "keep_secrets": {"type": "list", "elements": "str", "default": [], "no_log": False},  # names
        "remove_namespace": {"type": "bool", "default": False},
        "timeout": {"type": "int", "default": 300},
    }
    run(cluster_module({**CACHE_OPTIONS, **spec}), remove)


if __name__ == "__main__":
    main()
