# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: stateful_set_storage
short_description: Describe the storage of a StatefulSet
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Describes the storage of an existing StatefulSet, which Kubernetes cannot change, and the folders of its volumes. Role C(cache)
    compares it with its variables. A folder that is no longer mounted would use its part of the volume forever.
options:
  _input:
    description: StatefulSet.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show where the replicas store content
  ansible.builtin.debug:
    msg: "{{ result.resources[0] | pullthrough.registry_cache.stateful_set_storage }}"
"""

RETURN = r"""
_value:
  description: V(emptyDir), or the volume claims with their folders, storage class and size in MiB.
  type: str
  sample: volumeClaim content (registry) of class default, 22528Mi
"""

import typing as t

# Kubernetes rewrites sizes with the largest unit that fits.
_UNITS = {"Mi": 1, "Gi": 1 << 10, "Ti": 1 << 20}


def _mebibytes(quantity: str) -> str:
    number, unit = quantity[:-2], quantity[-2:]
    return f"{int(number) * _UNITS[unit]}Mi" if unit in _UNITS and number.isdigit() else quantity


def stateful_set_storage(stateful_set: dict[str, t.Any]) -> str:
    spec = stateful_set["spec"]
    claims = spec.get("volumeClaimTemplates") or []
    if not claims:
        return "emptyDir"
    names = sorted(claim["metadata"]["name"] for claim in claims)
    pod = spec["template"]["spec"]
    mounts = [mount for one in pod["containers"] + (pod.get("initContainers") or []) for mount in one.get("volumeMounts") or ()]
    folders = sorted({mount.get("subPath", "/") for mount in mounts if mount["name"] in names})
    claim = claims[0]["spec"]
    size = _mebibytes(claim["resources"]["requests"]["storage"])
    # The StatefulSet does not name the class that the cluster chooses by default; only the claim does.
    return f"volumeClaim {', '.join(names)} ({', '.join(folders)}) of class {claim.get('storageClassName') or 'default'}, {size}"


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"stateful_set_storage": stateful_set_storage}
