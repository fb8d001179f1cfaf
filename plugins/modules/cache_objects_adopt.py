#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_objects_adopt
short_description: Take over existing objects for a cache
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Adds the labels of a cache to existing objects. Nothing else about the objects changes.
  - Afterwards, the roles of this collection update and remove these objects as part of the cache.
options:
  objects:
    description: Objects to take over. All of them must exist, and none may belong to another cache.
    type: list
    elements: dict
    required: true
    suboptions:
      kind:
        description: Kind of the object. It must be a kind that role C(cache) writes, such as V(Service). A pull secret is a V(Secret).
        type: str
        required: true
      name:
        description: Name of the object.
        type: str
        required: true
      namespace:
        description: Namespace of the object. The default is O(namespace).
        type: str
requirements:
  - kubernetes
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.cache
  - pullthrough.registry_cache.attributes
attributes:
  diff_mode:
    description: Shows who manages the objects before and after.
    support: full
notes:
  - The caller needs the permissions C(get) and C(patch) on the objects.
seealso:
  - module: pullthrough.registry_cache.cache_objects_info
"""

EXAMPLES = r"""
- name: Take over a Service that was created by hand
  pullthrough.registry_cache.cache_objects_adopt:
    namespace: registry-cache
    objects:
      - kind: Service
        name: registry-cache
"""

RETURN = r"""
objects:
  description: State of each object before the run.
  returned: success
  type: list
  elements: str
  sample: ["Service registry-cache/registry-cache (managed by Helm, created 2026-01-01T00:00:00Z)"]
adopted:
  description: Objects that did not belong to this cache before the run.
  returned: success
  type: list
  elements: str
"""

import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.cache_objects import Adoption, cache_of
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import CACHE_OPTIONS, cluster_module, run


def adopt(module: t.Any, client: Client) -> dict[str, t.Any]:
    """Take over the objects; return the result of the module. Raise ClusterError."""
    owner = cache_of(module.params)
    wanted = [{**one, "namespace": one["namespace"] or owner.namespace} for one in module.params["objects"]]
    adoption = Adoption(client, owner, wanted)
    if not module.check_mode:
        adoption.write()
    after = [f"{one.partition(' (')[0]} (of cache {owner.namespace}/{owner.name})" for one in adoption.adopted]
    return {
        "changed": bool(adoption.adopted),
        "objects": adoption.objects,
        "adopted": adoption.adopted,
        "diff": {"before": "".join(f"{one}\n" for one in adoption.adopted), "after": "".join(f"{one}\n" for one in after)},
    }


def main() -> None:
    one = {
        "kind": {"type": "str", "required": True},
        "name": {"type": "str", "required": True},
        "namespace": {"type": "str"},
    }
    objects = {"type": "list", "elements": "dict", "required": True, "options": one}
    run(cluster_module({**CACHE_OPTIONS, "objects": objects}), adopt)


if __name__ == "__main__":
    main()
