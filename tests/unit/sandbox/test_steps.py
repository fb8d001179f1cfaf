# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps: what they announce, what their heartbeats say, and which durations they keep."""

from __future__ import annotations

import pathlib
import sys
import time
from collections.abc import Callable

import pytest

from sandbox import durations, steps


class Clock:
    """The time of a step, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(steps.time, "monotonic", lambda: self.now)


@pytest.fixture(autouse=True)
def files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "RECORDED", tmp_path / "durations.json")
    monkeypatch.setattr(durations, "REFERENCE", tmp_path / "reference.json")
    monkeypatch.setattr(steps, "LOGS", tmp_path / "logs")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def log(tmp_path: pathlib.Path, clock: Clock) -> Callable[[], steps.Log]:
    return lambda: steps.Log(tmp_path / "a.log", "build")


def test_a_step_says_how_long_it_took_the_last_time(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for seconds in (400, 90):
        with steps.step("build", "the compiler"):
            clock.now += seconds
    with steps.step("build"):
        pass
    assert capsys.readouterr().err.splitlines() == [
        "── build (waits for the compiler)",
        "   ok, 6 min 40 s",
        "── build (waits for the compiler; about 7 min last time)",
        "   ok, 1 min 30 s",
        "── build (about 1 min 30 s last time)",
        "   ok, 0.0 s",
    ]


def test_a_step_says_that_an_estimate_is_of_another_machine(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    durations.REFERENCE.write_text('{"seconds": {"build": 402, "short": 4}}')
    for title in ("build", "short"):
        with steps.step(title):
            pass
    assert "── build (about 7 min on a machine of two cores)\n" in capsys.readouterr().err


def test_a_short_step_is_announced_without_estimate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    durations.record("short", 4)
    with steps.step("short"):
        pass
    assert capsys.readouterr().err.startswith("── short\n")


def test_a_duration_is_known_by_a_name_without_version(clock: Clock) -> None:
    with steps.step("image 3.1.2", name="image"):
        clock.now += 20
    assert (durations.last("image"), durations.last("image 3.1.2")) == (20, None)


def test_neither_failure_nor_the_work_of_others_is_kept(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), steps.step("fails") as log:
        clock.now += 61
        log.note("what went wrong")
        raise steps.StepFailed("'go' ended with 1")
    with steps.step("elsewhere") as log:
        clock.now += 20
        log.worked = False
    assert (durations.last("fails"), durations.last("elsewhere")) == (None, None)
    shown = capsys.readouterr().err
    assert "   FAILED after 1 min 1 s: 'go' ended with 1\n" in shown
    assert "   | what went wrong\n" in shown


def test_a_heartbeat_says_time_estimate_and_what_is_done(log: Callable[[], steps.Log], clock: Clock) -> None:
    durations.record("build", 420)
    step = log()
    step.note("Collecting ansible\n\n  ")
    clock.now += 150
    assert step.heartbeat() == "2 min 30 s of about 7 min: Collecting ansible"


def test_a_heartbeat_without_estimate_says_the_time_alone(log: Callable[[], steps.Log], clock: Clock) -> None:
    step = log()
    clock.now += 150
    assert step.heartbeat() == "2 min 30 s: "


@pytest.mark.parametrize(
    ("record", "than"), [(True, "last time, 7 min"), (False, "on a machine of two cores, 7 min")]
)
def test_a_heartbeat_says_that_the_estimate_is_exceeded(
    log: Callable[[], steps.Log], clock: Clock, record: bool, than: str
) -> None:
    durations.REFERENCE.write_text('{"seconds": {"build": 420}}')
    if record:
        durations.record("build", 420)
    step = log()
    step.note("I: Unpacking libc6...")
    clock.now += 490
    assert step.heartbeat() == f"8 min 10 s, longer than {than}: I: Unpacking libc6..."


def test_the_estimate_is_of_the_items_that_are_left(log: Callable[[], steps.Log], clock: Clock) -> None:
    durations.record("build", 4000)
    durations.record("build: each item", 0.25)
    step = log()
    clock.now += 40
    step.count(1600, lambda: "1 of 1,600 packages, fmt")
    assert step.heartbeat() == "40 s of about 7 min: 1 of 1,600 packages, fmt"
    clock.now += 401
    assert step.heartbeat() == "7 min 21 s, longer than expected, 7 min 20 s: 1 of 1,600 packages, fmt"
    step.note("copying the build cache")
    step.uncount(1600)
    assert step.heartbeat().endswith(": copying the build cache")


def test_a_bound_of_items_is_a_bound_of_time(log: Callable[[], steps.Log], clock: Clock) -> None:
    durations.record("build: each item", 0.25)
    step = log()
    step.count(1600, lambda: "1 of at most 1,600 packages, fmt", at_most=True)
    assert step.heartbeat() == "0 s of at most 7 min: 1 of at most 1,600 packages, fmt"


def test_few_items_have_no_estimate(log: Callable[[], steps.Log], clock: Clock) -> None:
    durations.record("build", 420)
    durations.record("build: each item", 0.25)
    step = log()
    step.count(3, lambda: "1 of 3 packages, fmt")
    clock.now += 30
    assert step.heartbeat() == "30 s: 1 of 3 packages, fmt"


@pytest.mark.parametrize(("items", "each"), [(200, 1.5), (3, None)])
def test_the_time_of_each_item_is_kept_where_there_were_many(clock: Clock, items: int, each: float | None) -> None:
    with steps.step("build") as log:
        clock.now += 10  # of downloads
        log.count(1000, lambda: "", at_most=True)
        clock.now += 300
        log.uncount(items)
    assert durations.last("build") == 310
    assert durations.last("build: each item") == each


def test_a_long_line_is_shown_from_its_beginning(log: Callable[[], steps.Log], tmp_path: pathlib.Path) -> None:
    step = log()
    step.note("Installing collected packages: " + "a, " * 100)
    assert step.last_line().startswith("Installing collected packages: a, ")
    assert len(step.last_line()) == 100 and step.last_line().endswith("…")
    step.path = tmp_path / "not-yet.log"
    assert step.last_line() == ""


@pytest.mark.parametrize(("terminal", "seconds"), [(True, 10), (False, 30)])
def test_a_terminal_has_more_heartbeats(monkeypatch: pytest.MonkeyPatch, terminal: bool, seconds: float) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert steps._heartbeat_seconds() == seconds


def test_heartbeats_come_while_a_step_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(steps, "_heartbeat_seconds", lambda: 0.01)
    with steps.step("build") as log:
        log.note("Collecting ansible")
        shown, deadline = "", time.monotonic() + 20
        while "   … 0 s: Collecting ansible\n" not in shown and time.monotonic() < deadline:
            shown += capsys.readouterr().err
    assert "   … 0 s: Collecting ansible\n" in shown
