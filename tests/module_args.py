# SPDX-License-Identifier: GPL-3.0-or-later
"""How a module gets its arguments in this process, with any ansible-core."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

from ansible.module_utils import basic

try:
    from ansible.module_utils.testing import patch_module_args
except ImportError:  # before 2.19

    @contextlib.contextmanager
    def patch_module_args(module_args: dict[str, Any]) -> Iterator[None]:
        with mock.patch.object(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": module_args}).encode()):
            yield


__all__ = ["NULL", "patch_module_args"]
# What ansible-core itself says before 2.18 of a null among an option's own options.
NULL = "is of type <class 'NoneType'>"
