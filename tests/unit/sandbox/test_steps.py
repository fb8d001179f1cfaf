# SPDX-License-Identifier: GPL-3.0-or-later
"""A failed step stops the command and shows the reason, and its duration is not recorded."""

from __future__ import annotations

import pathlib

import pytest

from sandbox import durations, steps


@pytest.fixture(autouse=True)
def files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "RECORDED", tmp_path / "durations.json")
    monkeypatch.setattr(durations, "REFERENCE", tmp_path / "reference.json")
    monkeypatch.setattr(steps, "LOGS", tmp_path / "logs")


def test_a_step_that_succeeds_is_timed() -> None:
    with steps.step("image 3.1.2", name="image") as log:
        log.run("true")
    assert durations.last("image") is not None


def test_a_command_that_fails_ends_the_step(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, steps.step("fails") as log:
        log.run("sh", "-c", "echo what went wrong; exit 3")
    assert ended.value.code == 1
    assert "what went wrong" in capsys.readouterr().err
    assert durations.last("fails") is None


def test_either_side_of_a_pipe_that_fails_ends_the_step() -> None:
    for source, target in ((["false"], ["cat"]), (["true"], ["false"])):
        with pytest.raises(SystemExit), steps.step("pipe") as log:
            log.pipe(source, target)


def test_work_of_another_process_is_not_timed() -> None:
    with steps.step("elsewhere") as log:
        log.worked = False
    assert durations.last("elsewhere") is None


def test_a_timeout_names_the_condition() -> None:
    with pytest.raises(steps.StepFailed, match="the registry"):
        steps.wait(lambda: False, 0, "the registry", every=0)
