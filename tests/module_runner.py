# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module in this process with any version of ansible-core."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

from ansible.module_utils import basic
from ansible.module_utils.common import warnings

try:
    from ansible.module_utils.testing import patch_module_args
except ImportError:  # before 2.19

    @contextlib.contextmanager
    def patch_module_args(module_args: dict[str, Any]) -> Iterator[None]:
        with mock.patch.object(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": module_args}).encode()):
            yield


# A warning of ansible-core before 2.18 about null in a suboption.
NULL = "is of type <class 'NoneType'>"


def run(name: str, /, *, check: bool = False, with_secrets: bool = False, **arguments: Any) -> dict[str, Any]:
    """Returns the result of a module, with C(failed) if it failed.

    :param with_secrets: whether the result is as the module hands it over, before Ansible adds arguments and blots out secrets.
    """
    module = importlib.import_module(f"ansible_collections.pullthrough.registry_cache.plugins.modules.{name}")
    output, flags = io.StringIO(), {"_ansible_check_mode": check, "_ansible_diff": True}
    for kept in (warnings._global_warnings, warnings._global_deprecations):  # by a module that this process ran before
        kept.clear()
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch_module_args({**arguments, **flags}))
        if with_secrets:
            hand_over = lambda _self, result: print(json.dumps(result))  # noqa: E731
            stack.enter_context(mock.patch.object(basic.AnsibleModule, "_return_formatted", hand_over))
        stack.enter_context(contextlib.redirect_stdout(output))
        stack.enter_context(contextlib.suppress(SystemExit))
        module.main()
    return json.loads(output.getvalue())
