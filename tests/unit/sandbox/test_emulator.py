# SPDX-License-Identifier: GPL-3.0-or-later
"""`up` keeps an emulator that runs this tree's sources, and replaces one that runs others."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator

import pytest

from sandbox import direct, durations, emulator, processes, settings, steps
from sandbox.settings import Sandbox

# Not a shell script: while a process executes another program, its environment cannot be read.
PROGRAM = f"""#!{sys.executable} -IS
import time
time.sleep(60)
"""


@pytest.fixture
def sandbox(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox whose registry and emulator do nothing; the sources are in `tmp_path`/source."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "app.py").write_text("1")
    for name in ("registry", "python"):
        (tmp_path / name).write_text(PROGRAM)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    monkeypatch.setattr(settings, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(steps, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(durations, "RECORDED", tmp_path / "durations.json")
    monkeypatch.setattr(emulator, "_SOURCES", (tmp_path / "source",))
    monkeypatch.setattr(emulator.tools, "build", lambda _group: tmp_path)
    monkeypatch.setattr(emulator.environment, "PYTHON", tmp_path / "python")
    monkeypatch.setattr(direct, "status", lambda *_, **__: 200)
    monkeypatch.setattr(emulator, "wait_until_healthy", lambda *_: None)
    monkeypatch.setattr(steps.Log, "run", lambda *_, **__: None)  # seed.py would push the images
    made = Sandbox("test")
    yield made
    emulator.stop(made)


def pids(sandbox: Sandbox) -> tuple[str, str]:
    """Returns the pid files' text of the registry and of the emulator."""
    home = sandbox.state / "google"
    assert processes.running(home / "registry.pid") and processes.running(home / "google.pid")
    return (home / "registry.pid").read_text(), (home / "google.pid").read_text()


def test_an_emulator_of_the_same_sources_stays(sandbox: Sandbox) -> None:
    emulator.ensure(sandbox)
    before = pids(sandbox)
    emulator.ensure(sandbox)
    assert pids(sandbox) == before


def test_an_emulator_of_other_sources_is_replaced(
    sandbox: Sandbox, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.ensure(sandbox)
    registry, google = pids(sandbox)
    (tmp_path / "source" / "app.py").write_text("2")
    emulator.ensure(sandbox)
    assert pids(sandbox)[0] == registry
    assert pids(sandbox)[1] != google
    assert str(emulator.ROOT) in capsys.readouterr().err


def test_an_emulator_without_a_key_is_replaced(sandbox: Sandbox) -> None:
    """Trees from before keys existed start it without one."""
    home = sandbox.state / "google"
    processes.start(home / "google.pid", ["sleep", "60"])
    without = (home / "google.pid").read_text()
    emulator.ensure(sandbox)
    assert pids(sandbox)[1] != without


def test_a_registry_of_another_version_is_replaced(
    sandbox: Sandbox, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.ensure(sandbox)
    registry, google = pids(sandbox)
    newer = tmp_path / "newer"
    newer.mkdir()
    (tmp_path / "registry").rename(newer / "registry")
    monkeypatch.setattr(emulator.tools, "build", lambda _group: newer)
    emulator.ensure(sandbox)
    assert pids(sandbox)[0] != registry
    assert pids(sandbox)[1] == google


def test_one_that_ended_is_started_again(sandbox: Sandbox) -> None:
    emulator.ensure(sandbox)
    registry, google = pids(sandbox)
    processes.stop(sandbox.state / "google" / "google.pid")
    emulator.ensure(sandbox)
    assert pids(sandbox)[0] == registry
    assert pids(sandbox)[1] != google
