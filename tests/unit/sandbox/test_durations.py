# SPDX-License-Identifier: GPL-3.0-or-later
"""Durations: what is known of a name, whatever state the files are in, and how it is told."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from sandbox import durations
from sandbox.settings import ROOT, SANDBOX


@pytest.fixture(autouse=True)
def files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "RECORDED", tmp_path / "cache" / "durations.json")
    monkeypatch.setattr(durations, "REFERENCE", tmp_path / "reference.json")


def test_what_was_recorded_last_is_known_and_other_names_stay() -> None:
    durations.record("Größe: a, b", 12.5)
    durations.record("other", 3)
    durations.record("Größe: a, b", 7)
    assert durations.known("Größe: a, b") == durations.last("Größe: a, b") == 7
    assert durations.known("other") == 3
    assert durations.known("never") is None


def test_the_reference_serves_until_this_machine_has_its_own() -> None:
    durations.REFERENCE.write_text('{"seconds": {"build": 400}}')
    assert (durations.known("build"), durations.last("build")) == (400, None)
    durations.record("build", 90)
    assert durations.known("build") == durations.last("build") == 90


@pytest.mark.parametrize("broken", ["", "{", "[]", "3", '{"seconds": [1]}', '{"seconds": {"build": "long"}}', "\0"])
def test_a_broken_file_is_an_empty_one(broken: str) -> None:
    durations.RECORDED.parent.mkdir()
    durations.RECORDED.write_text(broken)
    durations.REFERENCE.write_text(broken)
    assert durations.known("build") is None
    durations.record("build", 5)
    assert durations.known("build") == 5


@pytest.mark.parametrize("value", ["true", "NaN", "Infinity", "-1", "null", '"5"'])
def test_what_is_no_duration_is_not_known(value: str) -> None:
    durations.REFERENCE.write_text('{"seconds": {"build": %s, "other": 1}}' % value)
    assert durations.known("build") is None
    assert durations.known("other") == 1


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    durations.record("build", 5)
    assert durations.known("build") is None


def test_processes_that_record_at_once_lose_nothing(tmp_path: pathlib.Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from sandbox import durations\n"
        "durations.RECORDED = pathlib.Path(sys.argv[1])\n"
        "for number in range(40): durations.record(f'{sys.argv[2]} {number}', number)\n"
    )
    argv = [sys.executable, "-c", program, str(durations.RECORDED)]
    writers = [subprocess.Popen([*argv, name], cwd=ROOT) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(json.loads(durations.RECORDED.read_text())["seconds"]) == 120


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (150, "2 min 30 s"), (3600, "1 h"), (3900, "1 h 5 min")],
)
def test_a_duration_is_told_to_the_second(seconds: float, text: str) -> None:
    assert durations.spoken(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "5 s"), (39.5, "40 s"), (101, "1 min 40 s"), (117, "1 min 55 s"), (118, "2 min"), (402, "7 min"), (4000, "1 h 7 min")],
)
def test_an_estimate_is_rounded(seconds: float, text: str) -> None:
    assert durations.rounded(seconds) == text


def test_the_committed_reference_has_nothing_but_durations() -> None:
    path = SANDBOX / "durations.json"
    assert durations._read(path) == json.loads(path.read_text())["seconds"]
