# SPDX-License-Identifier: GPL-3.0-or-later
"""Module python_requirements_info."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

from tests.module_runner import run

PYYAML = metadata.version("PyYAML")


@pytest.mark.parametrize("check", [False, True])
def test_installed_packages(check: bool) -> None:
    lines = ["# a comment", "", "PyYAML>=3.11", "pyyaml  # why", f"PyYAML >= {PYYAML}"]
    result = run("python_requirements_info", check=check, requirements=lines)
    assert (result["changed"], result["python"], result["unmet"]) == (False, sys.executable, [])


def test_missing_and_outdated_packages() -> None:
    result = run("python_requirements_info", requirements=["no-such-package>=1.0", "PyYAML>=99"])
    assert result["unmet"] == [
        {"requirement": "no-such-package>=1.0", "installed": ""},
        {"requirement": "PyYAML>=99", "installed": PYYAML},
    ]


@pytest.mark.parametrize("line", ["-r other.txt", "PyYAML==6", "PyYAML>=6,<7", "https://example.com/a.whl"])
def test_malformed_lines(line: str) -> None:
    result = run("python_requirements_info", requirements=[line])
    assert result["failed"] and line in result["msg"] and "Example: " in result["msg"]
