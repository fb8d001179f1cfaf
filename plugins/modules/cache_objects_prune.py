#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_objects_prune
short_description: Remove objects of a cache from its cluster
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Removes the objects of the kinds that role C(cache) writes which belong to the cache and are neither in O(keep) nor in
    O(keep_secrets). An object belongs to it if its labels C(app.kubernetes.io/managed-by), C(app.kubernetes.io/instance) and
    C(registry-cache.pullthrough/namespace) say so. Everything else stays, whatever its name. Pull secrets stay too.
  - Waits until what is removed is gone.
options:
  keep:
    description:
      - Objects that stay, as M(pullthrough.registry_cache.cache_objects_apply) takes them. Only their kinds and names are read.
    type: list
    elements: dict
    default: []
  keep_secrets:
    description: Names of Secrets that stay.
    type: list
    elements: str
    default: []
  remove_namespace:
    description:
      - Whether to delete the namespace too. It is deleted only if role C(cache) created it for this cache and it holds nothing else;
        otherwise a warning names the other objects. While it is being deleted already, the module waits.
    type: bool
    default: false
  timeout:
    description: How many seconds to wait.
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
    description: Shows which objects go.
    support: full
notes:
  - The caller needs C(get), C(list) and C(delete) on the objects in the namespace; with O(remove_namespace) also C(delete) on it,
    and C(list) on Deployments, DaemonSets and PersistentVolumeClaims in it.
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
  description: What was removed.
  returned: success
  type: list
  elements: str
  sample: [StatefulSet registry-cache]
others:
  description: With O(remove_namespace), the objects of others that keep the namespace.
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
    """The objects that stay, as Kind/name."""
    try:
        objects = {f"{item['kind']}/{item['metadata']['name']}" for item in params["keep"]}
    except (LookupError, TypeError):
        raise ObjectsError(
            "keep: each object must have a kind and a name. Example: keep: [{kind: ConfigMap, metadata: {name: registry-cache}}]"
        ) from None
    return objects | {f"Secret/{name}" for name in params["keep_secrets"]}


def remove(module: t.Any, client: Client) -> dict[str, t.Any]:
    """The result. Raises ClusterError."""
    params, owner = module.params, cache_of(module.params)
    prune = Prune(client, owner, _kept(params), params["remove_namespace"])
    if prune.others:
        module.warn(
            f"Namespace {owner.namespace} stays, since it holds objects of others: {some(prune.others)}."
            f" Once they are gone, remove it by: kubectl delete namespace {owner.namespace}"
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
