#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_handover
short_description: Take over the NodePort of a registry that another tool deployed
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Makes the Service of another registry that of a cache, without a moment in which the NodePort refuses connections. Then it removes the
    registry. The cache must be in the namespace of the registry.
  - A NodePort belongs to one Service, so the Service keeps its name. One patch gives it the labels and the selector of the cache, once
    all replicas are ready. Its port keeps its name too, since kube-proxy refuses connections while that changes.
  - Refuses objects that are not as O(registry) says, before anything is changed.
options:
  service:
    description: The Service that has the NodePort, in O(namespace).
    type: str
    required: true
  node_port:
    description: The NodePort that it must have.
    type: int
    default: 30026
  registry:
    description: The registry that the cache replaces, in O(namespace).
    type: dict
    required: true
    suboptions:
      deployment:
        description: Its Deployment.
        type: str
        required: true
      image:
        description: The image of the Deployment's one container, as the Deployment has it. With another image the Deployment is refused.
        type: str
        required: true
      htpasswd_secret:
        description:
          - The Secret that holds its htpasswd file. Each user of the file must be one of O(users), with the same hash or the password of
            that hash, so that pull secrets stay valid.
          - Without it the module does not compare the users.
        type: str
      htpasswd_key:
        description: The key of that file in the Secret.
        type: str
        default: htpasswd
      objects:
        description: What is removed with the Deployment. Each object must be used by the Deployment's pods. Others stay.
        type: list
        elements: dict
        default: []
        suboptions:
          kind:
            description: Its kind.
            type: str
            choices: [ConfigMap, Secret, ServiceAccount]
            required: true
          name:
            description: Its name.
            type: str
            required: true
  users:
    description: The users of the cache, as module M(pullthrough.registry_cache.cache_users) takes them.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The user's name.
        type: str
        required: true
      password:
        description: The password.
        type: str
      hash:
        description: A ready-made bcrypt hash.
        type: str
  users_from:
    description:
      - The name of a variable that holds O(users), so that no argument of the task holds a password. Other keys of its items are ignored.
    type: str
  step:
    description:
      - V(switch) makes the Service that of the cache. All replicas must be ready, except in check mode.
      - V(remove) removes the Deployment and O(registry.objects), and waits until the pods are gone. The Service must be that of the cache.
    type: str
    choices: [switch, remove]
    default: switch
  timeout:
    description: With O(step=remove), how many seconds to wait.
    type: int
    default: 300
requirements:
  - bcrypt
  - kubernetes
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.cache
  - pullthrough.registry_cache.attributes
attributes:
  diff_mode:
    description: Shows the objects that are taken over or removed.
    support: full
notes:
  - The caller needs C(get) and C(patch) on Services and Deployments, C(get) and C(delete) on what is removed, C(list) on pods in the
    namespace, and C(list) on Services in all namespaces.
seealso:
  - module: pullthrough.registry_cache.cache_objects_adopt
"""

EXAMPLES = r"""
- name: Take over the NodePort of a registry
  pullthrough.registry_cache.cache_handover:
    namespace: registry-cache
    service: cncf-registry-service
    users_from: registry_cache_users
    registry:
      deployment: cncf-gar-proxy
      image: docker.io/library/registry:3
      htpasswd_secret: registry-htpasswd

- name: Remove it
  pullthrough.registry_cache.cache_handover:
    namespace: registry-cache
    service: cncf-registry-service
    step: remove
    registry:
      deployment: cncf-gar-proxy
      image: docker.io/library/registry:3
      objects:
        - kind: Secret
          name: registry-htpasswd
"""

RETURN = r"""
handed_over:
  description: Whether the Service led to the cache already.
  returned: success
  type: bool
exists:
  description: Whether the Deployment of the registry still existed.
  returned: success
  type: bool
temporary_node_port:
  description: A NodePort for the cache until the Service leads to it. The one that it has already, or a free one near O(node_port).
  returned: success, if the Service does not lead to the cache yet
  type: int
objects:
  description: What is taken over or removed.
  returned: success
  type: list
  elements: str
  sample: ["Service cncf-registry-service in namespace registry-cache: is to lead to the cache"]
unnamed:
  description: What the Deployment's pods use and O(registry.objects) does not name. It stays.
  returned: success
  type: list
  elements: str
  sample: [ConfigMap registry-config]
"""

import typing as t

from ansible.module_utils.basic import missing_required_lib
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import htpasswd
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.cache_objects import cache_of
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.handover import KINDS, Handover, HandoverError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import CACHE_OPTIONS, cluster_module, run


def hand_over(module: t.Any, client: Client) -> dict[str, t.Any]:
    """The result. Raises ClusterError."""
    params = module.params
    handover = Handover(client, cache_of(params), params["service"], params["node_port"], params["registry"])
    handover.check_users([htpasswd.User(user["name"], user["password"], True, user["hash"]) for user in params["users"]])
    removes = params["step"] == "remove"
    if removes and not handover.done and not module.check_mode:
        raise HandoverError("step: the Service does not select the cache's pods yet. Run the step switch first. Example: step: switch")
    exists = handover.deployment is not None
    changed = exists if removes else not handover.done
    temporary = {} if handover.done else {"temporary_node_port": handover.temporary_node_port()}
    if changed and not module.check_mode:
        if removes:
            handover.remove(params["timeout"])
        else:
            handover.switch()
    lines = "".join(f"{line}\n" for line in handover.describes)
    return {
        "changed": changed,
        "handed_over": handover.done,
        "exists": exists,
        **temporary,
        "objects": handover.describes,
        "unnamed": handover.unnamed,
        "diff": {"before": lines, "after": "" if changed else lines},
        # Ansible would look for each password in each text of it.
        "invocation": {"module_args": {name: value for name, value in params.items() if name not in ("users", "api_key", "password")}},
    }


def main() -> None:
    one = {"kind": {"type": "str", "choices": list(KINDS), "required": True}, "name": {"type": "str", "required": True}}
    registry = {
        "deployment": {"type": "str", "required": True},
        "image": {"type": "str", "required": True},
        # The name of an object and of its key, no secrets.
        "htpasswd_secret": {"type": "str", "no_log": False},
        "htpasswd_key": {"type": "str", "default": "htpasswd", "no_log": False},
        "objects": {"type": "list", "elements": "dict", "default": [], "options": one},
    }
    user = {
        "name": {"type": "str", "required": True},
        "password": {"type": "str", "no_log": True},
        "hash": {"type": "str", "no_log": True},
    }
    spec = {
        **CACHE_OPTIONS,
        "service": {"type": "str", "required": True},
        "node_port": {"type": "int", "default": 30026},
        "registry": {"type": "dict", "required": True, "options": registry},
        "users": {"type": "list", "elements": "dict", "default": [], "options": user},
        # The action plugin reads the variable.
        "users_from": {"type": "str"},
        "step": {"type": "str", "choices": ["switch", "remove"], "default": "switch"},
        "timeout": {"type": "int", "default": 300},
    }
    module = cluster_module(spec)
    if library := htpasswd.missing(["bcrypt"]):
        module.fail_json(msg=missing_required_lib(library))
    run(module, hand_over)


if __name__ == "__main__":
    main()
