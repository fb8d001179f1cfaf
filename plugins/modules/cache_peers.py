#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_peers
short_description: Make the secret that the replicas of a cache share
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Keeps Secret C(NAME-peers) in the namespace of a cache. By its key C(peer) replicas prove to each other that a request comes from a
    replica. It has more than 128 bits and is made once; several runs at once end with the same one.
  - Refuses a Secret of this name that is not of this cache, see M(pullthrough.registry_cache.cache_objects_info).
options:
  name:
    description: The name of the cache.
    type: str
    default: registry-cache
  namespace:
    description: The namespace of the cache.
    type: str
    default: registry-cache
requirements:
  - kubernetes
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
attributes:
  check_mode:
    description: Can run in check mode and tell what would change.
    support: full
  diff_mode:
    description: Shows nothing, since all of it is secret.
    support: none
  idempotent:
    description: A second run changes nothing.
    support: full
notes:
  - The caller needs C(get), C(create) and C(patch) on Secrets in the namespace.
seealso:
  - module: pullthrough.registry_cache.cache_users
"""

EXAMPLES = r"""
- name: Make the secret of the replicas
  pullthrough.registry_cache.cache_peers:
    namespace: registry-cache
"""

RETURN = r"""#"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import users
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes import cache_objects
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes import client as cluster
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.secret import TRIES, BusyError, Secret


def run(module: AnsibleModule, api: Client) -> dict[str, bool]:
    """The result. Raises ClusterError."""
    owner = cache_objects.Owner(module.params["namespace"], module.params["name"])
    cache_objects.check(owner)
    for _try in range(TRIES):
        secret = Secret(api, owner, "peers", "peer")
        if secret.text:
            return {"changed": False}
        if module.check_mode or secret.write(users.make_password()):
            return {"changed": True}
    raise BusyError(f"Somebody else changed {secret.where} {TRIES} times meanwhile. Run again.")


def main() -> None:
    spec = {
        "name": {"type": "str", "default": "registry-cache"},
        "namespace": {"type": "str", "default": "registry-cache"},
    }
    module = AnsibleK8SModule(
        module_class=AnsibleModule, argument_spec={**AUTH_ARG_SPEC, **spec}, supports_check_mode=True, check_pyyaml=False
    )
    cluster.run(module, lambda api: run(module, api))


if __name__ == "__main__":
    main()
