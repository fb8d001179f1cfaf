# SPDX-License-Identifier: GPL-3.0-or-later
"""Durations: problems with their files are never an error, so the timed work continues."""

from __future__ import annotations

import pathlib

import pytest

from sandbox import durations


@pytest.fixture(autouse=True)
def files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "RECORDED", tmp_path / "cache" / "durations.json")
    monkeypatch.setattr(durations, "REFERENCE", tmp_path / "reference.json")


def test_the_reference_serves_until_this_machine_has_its_own() -> None:
    durations.REFERENCE.write_text('{"seconds": {"build": 400}}')
    assert (durations.known("build"), durations.last("build")) == (400, None)
    durations.record("build", 90)
    assert durations.known("build") == durations.last("build") == 90


@pytest.mark.parametrize("broken", ["", "[]", '{"seconds": [1]}', '{"seconds": {"build": "long"}}', "\0"])
def test_a_broken_file_counts_as_empty(broken: str) -> None:
    durations.RECORDED.parent.mkdir()
    durations.RECORDED.write_text(broken)
    durations.REFERENCE.write_text(broken)
    assert durations.known("build") is None
    durations.record("build", 5)
    assert durations.known("build") == 5


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    durations.record("build", 5)
    assert durations.known("build") is None
