# SPDX-License-Identifier: GPL-3.0-or-later
"""A process is found again by its pid file, and told from one that runs other sources by its key."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from sandbox import processes

SLEEP = ["sleep", "60"]


@pytest.fixture
def pid_file(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    file = tmp_path / "state" / "sleep.pid"
    yield file
    processes.stop(file)


def test_a_process_is_found_and_stopped(pid_file: pathlib.Path) -> None:
    assert not processes.running(pid_file)
    processes.start(pid_file, SLEEP)
    assert processes.running(pid_file)
    processes.stop(pid_file)
    assert not processes.running(pid_file)


def test_a_reused_pid_is_not_the_recorded_process(pid_file: pathlib.Path) -> None:
    processes.start(pid_file, SLEEP)
    recorded = pid_file.read_text()
    pid_file.write_text(f"{recorded.split()[0]} 1\n")
    assert not processes.running(pid_file)
    pid_file.write_text(recorded)


@pytest.mark.parametrize("started_with", ["one", "", None])
def test_a_key_identifies_what_a_process_runs(pid_file: pathlib.Path, started_with: str | None) -> None:
    processes.start(pid_file, SLEEP, key=started_with)
    assert processes.running(pid_file)
    assert processes.running(pid_file, "one") == (started_with == "one")
    assert not processes.running(pid_file, "another")
