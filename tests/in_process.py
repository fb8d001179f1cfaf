# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module's main() in this process, up to what it hands to exit_json or fail_json."""

from __future__ import annotations

import types
from typing import Any, NoReturn

import pytest
from ansible.module_utils.basic import AnsibleModule

from tests.module_args import patch_module_args


class _Ended(Exception):
    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(result)
        self.result = result


def run(module: types.ModuleType, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """What the module hands over, before Ansible blots out secrets; with C(failed) where it failed."""

    def exit_json(_self: AnsibleModule, **result: Any) -> NoReturn:
        raise _Ended(result)

    def fail_json(_self: AnsibleModule, msg: str, **result: Any) -> NoReturn:
        raise _Ended({**result, "msg": msg, "failed": True})

    flags = {"_ansible_check_mode": check, "_ansible_diff": True}
    with pytest.MonkeyPatch.context() as patch, patch_module_args({**arguments, **flags}):
        patch.setattr(AnsibleModule, "exit_json", exit_json)
        patch.setattr(AnsibleModule, "fail_json", fail_json)
        try:
            module.main()
        except _Ended as ended:
            return ended.result
    raise AssertionError("the module ended without a result")
