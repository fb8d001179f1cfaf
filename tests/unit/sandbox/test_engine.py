# SPDX-License-Identifier: GPL-3.0-or-later
"""The container engine: its runtime is a copy, which `up` keeps equal to this tree's."""

from __future__ import annotations

import os
import pathlib

import pytest

from sandbox import engine


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "the machine's"])
def test_the_runtime_of_a_running_engine_is_updated(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ours: bool) -> None:
    monkeypatch.setattr(engine, "_RUN", tmp_path)
    monkeypatch.setattr(engine, "attach", lambda: True)
    monkeypatch.setattr(engine, "ours", lambda: ours)
    copy = tmp_path / engine._RUNTIME.name
    copy.write_text("from another tree")
    engine.ensure()
    assert (copy.read_text() == engine._RUNTIME.read_text()) == ours
    assert os.access(copy, os.X_OK) == ours
    assert [file.name for file in tmp_path.iterdir()] == [copy.name]
