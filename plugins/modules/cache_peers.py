#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_peers
short_description: Create the shared secret of the replicas of a cache
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Creates Secret C(NAME-peers) in the namespace of a cache. With the key C(peer), replicas prove to each other that a request comes from
    a replica. The key has more than 128 random bits. It is created once, and concurrent runs end with the same key.
  - Refuses a Secret with this name that does not belong to the cache. See M(pullthrough.registry_cache.cache_objects_info).
requirements:
  - kubernetes
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.cache
  - pullthrough.registry_cache.attributes
attributes:
  diff_mode:
    description: Shows nothing, because the content is secret.
    support: none
notes:
  - The caller needs the permissions C(get), C(create) and C(patch) on Secrets in the namespace.
seealso:
  - module: pullthrough.registry_cache.cache_users
"""

EXAMPLES = r"""
- name: Create the shared secret of the replicas
  pullthrough.registry_cache.cache_peers:
    namespace: registry-cache
"""

RETURN = r"""#"""

import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials.users import make_password
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.cache_objects import cache_of
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import CACHE_OPTIONS, cluster_module, run
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.secret import TRIES, BusyError, Secret


def ensure(module: t.Any, client: Client) -> dict[str, t.Any]:
    """Create the secret if it is missing; return the result of the module. Raise ClusterError."""
    owner = cache_of(module.params)
    for _try in range(TRIES):
        secret = Secret(client, owner, "peers", "peer")
        if secret.text:
            return {"changed": False}
        if module.check_mode or secret.write(make_password()):
            return {"changed": True}
    raise BusyError(f"{secret.where} was changed by another run {TRIES} times. Wait until that run has ended, and run again.")


def main() -> None:
    run(cluster_module(CACHE_OPTIONS), ensure)


if __name__ == "__main__":
    main()
