# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of three replicas recorded becomes the rows of `make bench-kind`."""

from __future__ import annotations

import pathlib

import pytest

from bench import kind


def test_rows(tmp_path: pathlib.Path) -> None:
    junit = tmp_path / "junit.xml"
    recorded = "".join(f'<property name="{name}" value="{bound}"/>' for name, bound in kind.GOALS.items() if "scaling" not in name)
    junit.write_text(f"<testsuites><testsuite><testcase><properties>{recorded}</properties></testcase></testsuite></testsuites>")
    rows = {result.measure: result for result in kind.results(kind.measured(junit))}
    assert set(rows) == set(kind.GOALS)
    missed = {name for name, result in rows.items() if not result.met}
    assert missed == {"pulls failed, scaling 2 → 5 → 3"}
    assert "before it was measured" in rows[missed.pop()].note


def test_a_measure_without_a_goal_is_an_error() -> None:
    with pytest.raises(ValueError, match="pulls failed, at noon"):
        kind.results({"pulls failed, at noon": 1})
