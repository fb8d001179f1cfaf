# SPDX-License-Identifier: GPL-3.0-or-later
"""A sandbox command inside `run`, such as molecule starts, gets the environment from outside."""

from __future__ import annotations

import os
from typing import Any

import pytest

from sandbox import __main__ as program


def test_variables_that_run_replaces_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"HTTPS_PROXY": "http://company:3128", "KEPT": "yes"})
    inside: Any = {"HTTPS_PROXY": "http://emulator:3128", "SANDBOX": "test"}
    monkeypatch.setattr(program, "_inside", lambda _sandbox: inside)
    sandbox: Any = None
    for _twice in range(2):  # `run` within `run`
        program._enter(sandbox)
        assert inside.items() <= os.environ.items()
    program._leave()
    assert os.environ == {"HTTPS_PROXY": "http://company:3128", "KEPT": "yes"}
    program._leave()
    assert os.environ == {"HTTPS_PROXY": "http://company:3128", "KEPT": "yes"}
