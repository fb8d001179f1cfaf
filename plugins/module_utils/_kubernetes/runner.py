# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Common parts of modules for a cluster: options and errors.

Private to this collection.
"""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule

from .client import Client, connect
from .errors import ClusterError

# Options of the doc fragments cache and replicas.
CACHE_OPTIONS: dict[str, t.Any] = {
    "name": {"type": "str", "default": "registry-cache"},
    "namespace": {"type": "str", "default": "registry-cache"},
}
REPLICA_OPTIONS: dict[str, t.Any] = {
    "label_selector": {"type": "str", "required": True},
    "port": {"type": "int", "default": 5000},
    "timeout": {"type": "int", "default": 300},
}


def cluster_module(spec: dict[str, t.Any], **rest: t.Any) -> t.Any:
    """Return a module with these options and the connection options of kubernetes.core. By default, it supports check mode."""
    return AnsibleK8SModule(
        module_class=AnsibleModule,
        argument_spec={**AUTH_ARG_SPEC, **spec},
        check_pyyaml=False,
        **{"supports_check_mode": True, **rest},
    )


def run(module: t.Any, work: t.Callable[[t.Any, Client], dict[str, t.Any]]) -> None:
    """Run `work`, and exit the module with its result, or fail it with the text of a ClusterError."""
    try:
        result = work(module, connect(module))
    except ClusterError as error:
        module.fail_json(msg=f"{str(error).rstrip('.')}.")
    module.exit_json(**result)
