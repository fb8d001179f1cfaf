# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Common parts of Google modules: options, errors and results.

Private to this collection.
"""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule

from .client import GcpError, argument_spec, require_libraries
from .resource import Outcome

STATE: dict[str, t.Any] = {"state": {"type": "str", "choices": ["present", "absent"], "default": "present"}}
_FIELDS = {"displayName": "display_name", "description": "description", "disabled": "disabled"}


def gcp_module(spec: dict[str, t.Any], **rest: t.Any) -> AnsibleModule:
    """Return an AnsibleModule with the Google options. It fails if a required library is missing."""
    module = AnsibleModule(argument_spec={**argument_spec(), **spec}, supports_check_mode=True, **rest)
    require_libraries(module)
    return module


def run(module: t.Any, work: t.Callable[[t.Any], dict[str, t.Any]]) -> None:
    """Run `work`, and exit the module with its result, or fail it with the text of a GcpError."""
    try:
        result = work(module)
    except GcpError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


def described(params: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return the fields of an object for options display_name, description and disabled. Unset options are left out."""
    return {field: params[option] for field, option in _FIELDS.items() if params.get(option) is not None}


def result(name: str, outcome: Outcome) -> dict[str, t.Any]:
    """Return the result of a module that manages an object, with the object under this name."""
    changed, before, after = outcome
    return {"changed": changed, name: after, "diff": {"before": before, "after": after}}
