#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_objects_apply
short_description: Apply the objects of a cache
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Applies a list of objects with server-side apply and the field manager C(registry-cache). It takes over fields that others manage.
  - Unlike M(kubernetes.core.k8s) with a list, it returns a diff for each object. It is faster than one task for each object.
  - It does not check who owns the objects. See M(pullthrough.registry_cache.cache_objects_info).
options:
  objects:
    description:
      - Objects to apply, in this order. Allowed kinds are Namespace, ServiceAccount, ConfigMap, Service, StatefulSet,
        PodDisruptionBudget, PodMonitor and PrometheusRule.
      - A Secret is refused, because the diff would show its content.
    type: list
    elements: dict
    required: true
requirements:
  - kubernetes
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.attributes
attributes:
  check_mode:
    description: Sends a server-side dry run. The cluster refuses an object in a namespace that does not exist yet.
    support: full
  diff_mode:
    description: Shows each object that changes.
    support: full
notes:
  - The caller needs the permissions C(get), C(create) and C(patch) on these kinds.
seealso:
  - module: pullthrough.registry_cache.cache_objects_prune
"""

EXAMPLES = r"""
- name: Apply a namespace and a service account
  pullthrough.registry_cache.cache_objects_apply:
    objects:
      - apiVersion: v1
        kind: Namespace
        metadata:
          name: registry-cache
      - apiVersion: v1
        kind: ServiceAccount
        metadata:
          name: registry-cache
          namespace: registry-cache
"""

RETURN = r"""
applied:
  description: Objects that were created or changed. If an object was refused, the list contains those before it.
  returned: success, and failure after a change
  type: list
  elements: str
  sample: [StatefulSet registry-cache/registry-cache]
"""

import functools
import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.cache_objects import Item, ObjectsError, path_of
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import APPLY, Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import ClusterError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.objects import compared, named
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import cluster_module, run

_EXAMPLE = "Example: objects: [{apiVersion: v1, kind: Namespace, metadata: {name: registry-cache}}]"


def _path(item: Item) -> str:
    """Return the API path of an object. Raise ObjectsError if its kind is not allowed or a name is missing."""
    try:
        kind, metadata = item["kind"], item["metadata"]
        if kind == "Namespace":
            return f"/api/v1/namespaces/{metadata['name']}"
        # A diff would show the content of a Secret.
        if kind != "Secret":
            return path_of(kind, metadata["namespace"], metadata["name"])
    except (LookupError, TypeError):
        pass
    raise ObjectsError(
        f"objects: each object must have a kind that role cache applies, a name, and a namespace unless it is a Namespace. {_EXAMPLE}"
    )


def _result(applied: list[str], diff: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    return {"changed": bool(applied), "applied": applied, "diff": diff}


def apply(module: t.Any, client: Client) -> dict[str, t.Any]:
    """Apply the objects; return the result. Raise ClusterError if nothing was changed, otherwise fail the module."""
    objects = module.params["objects"]
    paths = [_path(item) for item in objects]
    existing = client.each([functools.partial(client.get, path) for path in paths])
    options = {**APPLY, "dry_run": "All"} if module.check_mode else APPLY
    applied: list[str] = []
    diff: list[dict[str, t.Any]] = []
    for item, path, found in zip(objects, paths, existing):
        try:
            made = client.request("patch", path, item, **options)
        except ClusterError as error:
            problem = f"objects: {named(item)} was not applied ({error.words})"
            if applied and not module.check_mode:
                module.fail_json(msg=f"{problem}. Applied before: {', '.join(applied)}.", **_result(applied, diff))
            raise ObjectsError(problem) from error
        before, after = compared(found), compared(made)
        if before != after:
            applied.append(named(item))
            diff.append({"before_header": named(item), "after_header": named(item), "before": before, "after": after})
    return _result(applied, diff)


def main() -> None:
    run(cluster_module({"objects": {"type": "list", "elements": "dict", "required": True}}), apply)


if __name__ == "__main__":
    main()
