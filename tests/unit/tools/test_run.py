# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner: what it reads from a stage's output, and what it records."""

from __future__ import annotations

import pathlib

import pytest

from sandbox import durations
from tools import run
from tools.tiers import Stage

MOLECULE = """
echo '    0.1 s  site/test_a.py::test_one' >> "$TEST_PROGRESS"
echo 'FAILED tests/e2e/site/test_a.py::test_two - assert 1 == 2' >> "$TEST_PROGRESS"
printf '│ fatal: [sandbox]: FAILED! => tests/e2e/site:\\n│   FAILED tests/e2e/site/test_a.p\\n'
echo '1 failed, 1 passed in 2.34s'
exit 2
"""


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The durations that are recorded."""
    kept: dict[str, float] = {}
    monkeypatch.setattr(durations, "record", kept.__setitem__)
    monkeypatch.setattr(durations, "known", kept.get)
    return kept


def shell(script: str, scenario: str = "") -> Stage:
    return Stage("some", "test", "something", run=("sh", "-c", script), scenario=scenario)


def test_a_stage_that_passes_is_counted_and_timed(recorded: dict[str, float]) -> None:
    result = run.run(shell("echo '3 passed, 1 skipped in 0.12s'; echo 'SKIPPED [1] tests/a.py: no reason'"), "test")
    assert result.ok and result.counts == {"passed": 3, "skipped": 1}
    assert result.skips == ["[1] tests/a.py: no reason"]
    assert recorded.keys() == {"test: some"}


def test_each_failed_test_is_named_once_with_its_reason(recorded: dict[str, float]) -> None:
    lines = ["FAILED tests/a.py::t - first words", "more", "FAILED tests/a.py::t - AssertionError", "1 failed in 0.1s"]
    result = run.run(shell("".join(f"echo '{line}'\n" for line in lines) + "exit 1"), "test")
    assert not result.ok and result.failures == ["FAILED tests/a.py::t - first words"]
    assert result.counts == {"failed": 1} and not recorded


def test_the_tests_of_a_scenario_are_shown_when_they_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run, "command", lambda stage: stage.run)
    result = run.run(shell(MOLECULE, scenario="site"), "test")
    assert "0.1 s  site/test_a.py::test_one\n" in capsys.readouterr().out
    assert result.failures == ["FAILED tests/e2e/site/test_a.py::test_two - assert 1 == 2"]
    assert result.counts == {"failed": 1, "passed": 1}


def test_the_tier_reaches_the_tests() -> None:
    assert run.run(shell('[ "$TEST_TIER" = e2e ]'), "e2e").ok
    assert not run.run(shell('[ "$TEST_TIER" = e2e ]'), "test").ok


def test_a_run_replaces_the_topics_previous_result(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.md")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "_git", lambda *words: "abc1234" if words[0] == "rev-parse" else "")
    run.record(run.Result("site", "", 600, True, {"passed": 3}))
    run.record(run.Result("faults", "", 60, True, {"passed": 1}))
    run.record(run.Result("site", "", 1200, False, {"failed": 1, "passed": 2}))
    rows = [line for line in run.RESULTS.read_text().splitlines() if "abc1234" in line]
    assert [row.split(" | ")[0] for row in rows] == ["| faults", "| site"]
    assert "**failed** | 1 failed, 2 passed | 20 |" in rows[1]
