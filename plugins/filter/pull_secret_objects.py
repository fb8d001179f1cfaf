# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: pull_secret_objects
short_description: Make the objects by which a controller copies pull secrets to namespaces made later
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Makes the objects of external-secrets or reflector for pull secrets; role C(pull_secret) applies them.
  - They hold credentials, so set C(no_log) on the task.
options:
  _input:
    description: The pull secrets as module M(pullthrough.registry_cache.pull_secrets) takes them, each with C(user), the user's name.
    type: list
    elements: dict
    required: true
  controller:
    description: The controller.
    type: str
    choices: [none, external_secrets, reflector]
    required: true
  cache:
    description: The name of the cache.
    type: str
    required: true
  namespace:
    description: The cache's namespace, where the sources are.
    type: str
    required: true
  made_by:
    description: O(pullthrough.registry_cache.pull_secrets#module:instance) of the module, which takes the copies over.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: What external-secrets is told
  ansible.builtin.debug:
    msg: "{{ secrets | pullthrough.registry_cache.pull_secret_objects('external_secrets', cache='registry-cache',
      namespace='registry-cache', made_by='registry-cache') | map(attribute='kind') }}"
"""

RETURN = r"""
_value:
  description: The objects, in the order in which they are applied.
  type: list
  elements: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils import _pull_secret_controllers


def pull_secret_objects(
    secrets: list[dict[str, t.Any]], controller: str, cache: str, namespace: str, made_by: str
) -> list[dict[str, t.Any]]:
    try:
        return _pull_secret_controllers.objects(secrets, controller, cache, namespace, made_by)
    except _pull_secret_controllers.ControllerError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, t.Any]:
        return {"pull_secret_objects": pull_secret_objects}
