# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: host_conflicts
short_description: Other hosts of the play whose cache cannot exist beside this host's
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Compares what M(pullthrough.registry_cache.cache_objects_info) returned for the hosts of a play. Two hosts may be two caches of
    one cluster, with a namespace or name and a port of the nodes for each. They must not be the same cache.
options:
  _terms:
    description: The name of the registered result.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Check that no other host means the same cache
  ansible.builtin.assert:
    that: query('pullthrough.registry_cache.host_conflicts', '_existing') | length == 0
    fail_msg: "{{ query('pullthrough.registry_cache.host_conflicts', '_existing') | join(' ') }}"
"""

RETURN = r"""
_raw:
  description: A sentence for each conflict.
  type: list
  elements: str
"""

import typing as t

from ansible.plugins.lookup import LookupBase


def conflicts(host: str, found: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[str]:
    """A sentence for each other host whose cache cannot exist beside this host's.

    :param found: results of module cache_objects_info, by host.
    """
    own, said = found[host], []
    for other, theirs in found.items():
        if other == host or theirs.get("cluster") != own["cluster"]:
            continue
        if theirs["cache"] == own["cache"]:
            name = own["cache"].partition("/")[2]
            said.append(
                f"registry_cache_namespace: hosts {host} and {other} of the inventory are the same cache {name} of one cluster. Take"
                " one of them out, or give it a namespace and a registry_cache_node_port of its own."
                " Example: registry_cache_namespace: registry-cache-2"
            )
        elif own["node_port"] is not None and theirs["node_port"] == own["node_port"]:
            said.append(
                f"registry_cache_node_port: hosts {host} and {other} of the inventory are caches of one cluster, and both have"
                f" {own['node_port']}. Give one of them another port. Example: registry_cache_node_port: {own['node_port'] + 1}"
            )
    return said


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, t.Any] | None = None, **_kwargs: t.Any) -> list[str]:
        (name,) = terms
        variables = variables or {}
        # A host that has failed meanwhile, or whose cache is to go, has none.
        found = {host: variables["hostvars"][host].get(name) or {} for host in variables["ansible_play_hosts"]}
        return conflicts(variables["inventory_hostname"], found)
