# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of `make bench-kind` come from the records of tests with three replicas."""

from __future__ import annotations

import pathlib

import pytest

from bench import kind
from sandbox.settings import ROOT


def test_rows(tmp_path: pathlib.Path) -> None:
    junit = tmp_path / "junit.xml"
    recorded = "".join(f'<property name="{name}" value="{bound}"/>' for name, bound in kind.GOALS.items() if "scaling" not in name)
    junit.write_text(f"<testsuites><testsuite><testcase><properties>{recorded}</properties></testcase></testsuite></testsuites>")
    rows = {result.measure: result for result in kind.results(kind.measured(junit))}
    assert set(rows) == set(kind.GOALS)
    missed = {name for name, result in rows.items() if not result.met}
    assert missed == {"pulls failed, scaling 2 → 5 → 3"}
    assert "not measured" in rows[missed.pop()].note


@pytest.mark.parametrize("test", [test for tests in kind.TESTS.values() for test in tests])
def test_the_tests_that_it_runs_exist(test: str) -> None:
    file, _, name = test.partition("::")
    text = (ROOT / file).read_text()
    assert "record_property(" in text
    assert not name or f"def {name.partition('[')[0]}(" in text
    assert "[" not in name or f"\"{name.partition('[')[2].removesuffix(']')}\"" in text


def test_a_measurement_without_a_goal_is_an_error() -> None:
    with pytest.raises(ValueError, match="pulls failed, at noon"):
        kind.results({"pulls failed, at noon": 1})
