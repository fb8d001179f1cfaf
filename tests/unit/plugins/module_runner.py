# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module in this process, as Ansible runs it: arguments in, JSON out."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from typing import Any

from tests.module_args import patch_module_args


def run(name: str, /, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """The result of a module, with C(failed) where it failed."""
    module = importlib.import_module(f"ansible_collections.pullthrough.registry_cache.plugins.modules.{name}")
    output = io.StringIO()
    flags = {"_ansible_check_mode": check, "_ansible_diff": True}
    with patch_module_args({**arguments, **flags}), contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        module.main()
    return json.loads(output.getvalue())
