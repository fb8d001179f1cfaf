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
  - Removes the objects of the kinds that role C(cache) writes which belong to the cache and are not in O(keep). An object belongs to
    it if its labels C(app.kubernetes.io/managed-by), C(app.kubernetes.io/instance) and C(registry-cache.pullthrough/namespace) say so.
    Everything else stays, whatever its name. Pull secrets stay too.
  - Waits until what is removed is gone.
options:
  name:
    description: The name of the cache.
    type: str
    default: registry-cache
  namespace:
    description: The namespace of the cache.
    type: str
    default: registry-cache
  keep:
    description: Objects that stay, as C(Kind/name).
    type: list
    elements: str
    default: []
  remove_namespace:
    description:
      - Whether the namespace goes too. It goes only if role C(cache) has created it for this cache, and if it holds nothing of anybody
        else; otherwise a warning says what is there. While it is being deleted already, the module waits.
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
attributes:
  check_mode:
    description: Can run in check mode and tell what would change.
    support: full
  diff_mode:
    description: Shows which objects go.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
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

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes import cache_objects
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes import client as cluster
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import some


def main() -> None:
    spec = {
        "name": {"type": "str", "default": "registry-cache"},
        "namespace": {"type": "str", "default": "registry-cache"},
        "keep": {"type": "list", "elements": "str", "default": []},
        "remove_namespace": {"type": "bool", "default": False},
        "timeout": {"type": "int", "default": 300},
    }
    module = AnsibleK8SModule(
        module_class=AnsibleModule, argument_spec={**AUTH_ARG_SPEC, **spec}, supports_check_mode=True, check_pyyaml=False
    )
    params = module.params
    owner = cache_objects.Owner(params["namespace"], params["name"])

    def work(api: cluster.Client) -> dict[str, object]:
        cache_objects.check(owner)
        prune = cache_objects.Prune(api, owner, params["keep"], params["remove_namespace"])
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

    cluster.run(module, work)


if __name__ == "__main__":
    main()
