# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures: a clone as in an AWX project, and the documentation of AWX's modules."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from typing import Any

import pytest

from sandbox import environment
from tools import artifact

from .recorder import KINDS

BIN = environment.VENV / "bin"


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Returns a clone at a path like that in AWX, `_8__registry_cache`."""
    return artifact.clone(tmp_path_factory.mktemp("projects") / "_8__registry cache")


@pytest.fixture(scope="session")
def module_options() -> dict[str, dict[str, Any]]:
    names = [f"awx.awx.{module}" for module in KINDS.values()]
    bare = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    shown = subprocess.run([BIN / "ansible-doc", "--json", *names], check=True, capture_output=True, text=True, env=bare)
    return {name.rpartition(".")[2]: page["doc"]["options"] for name, page in json.loads(shown.stdout).items()}
