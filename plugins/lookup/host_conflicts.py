# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: host_conflicts
short_description: Find hosts of the play whose caches conflict with this host's cache
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Compares the results of M(pullthrough.registry_cache.cache_objects_info) for all hosts of the play. Two hosts may describe two caches
    of one cluster, if each has its own namespace or name and its own NodePort. They must not describe the same cache.
options:
  _terms:
    description: Name of the variable in which the results are registered.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Check that no other host describes the same cache
  ansible.builtin.assert:
    that: query('pullthrough.registry_cache.host_conflicts', '_existing') | length == 0
    fail_msg: "{{ query('pullthrough.registry_cache.host_conflicts', '_existing') | join(' ') }}"
"""

RETURN = r"""
_raw:
  description: One message for each conflict. Each message names the variable and gives an example.
  type: list
  elements: str
"""

import typing as t

from ansible.plugins.lookup import LookupBase


def conflicts(host: str, found: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[str]:
    """Return a message for each other host whose cache conflicts with this host's cache.

    :param found: results of module cache_objects_info, by host.
    """
    own, messages = found[host], []
    for other, theirs in found.items():
        if other == host or theirs.get("cluster") != own["cluster"]:
            continue
        if theirs["cache"] == own["cache"]:
            name = own["cache"].partition("/")[2]
            messages.append(
                f"registry_cache_namespace: hosts {host} and {other} of the inventory describe the same cache {name} of one cluster."
                " Remove one of the hosts, or give it another namespace and another registry_cache_node_port."
                " Example: registry_cache_namespace: registry-cache-2"
            )
        elif own["node_port"] is not None and theirs["node_port"] == own["node_port"]:
            messages.append(
                f"registry_cache_node_port: hosts {host} and {other} of the inventory describe caches of one cluster, and both use port"
                f" {own['node_port']}. Give one of them another port. Example: registry_cache_node_port: {own['node_port'] + 1}"
            )
    return messages


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, t.Any] | None = None, **_kwargs: t.Any) -> list[str]:
        (name,) = terms
        variables = variables or {}
        # A host has no result if it has failed since, or if its cache is being removed.
        found = {host: variables["hostvars"][host].get(name) or {} for host in variables["ansible_play_hosts"]}
        return conflicts(variables["inventory_hostname"], found)
