# SPDX-License-Identifier: GPL-3.0-or-later
"""README has the figures of the last bench, not those of an earlier one."""

from __future__ import annotations

import pathlib

import pytest

from bench import report, summary
from bench.candidates import NGINX, V3
from bench.report import Goal, Result

COSTS = [Result(measure, "", V3, 4.25, 9) for _says, measures, _default in summary.COSTS.values() for measure in measures]
FIGURES = [Result(measure, "", peer, 1, value) for measure in summary.ROWS.values() for peer, value in ((V3, 20), (NGINX, 3000))]


def test_readme_shows_the_last_results() -> None:
    shown = summary.shown()
    assert shown == {**shown, **summary.tables()}


def test_there_are_no_tables_before_the_first_run(tmp_path: pathlib.Path) -> None:
    assert summary.tables(tmp_path) == {}


def test_each_figure_has_both_peers(tmp_path: pathlib.Path) -> None:
    report.write([*FIGURES, *COSTS], {}, folder=tmp_path)
    rows = summary.tables(tmp_path)["figures"].splitlines()[2:]
    assert rows == [f"| {says} | 1 | 20 | 3,000 |" for says in summary.ROWS]


def test_each_cost_is_of_this_cache(tmp_path: pathlib.Path) -> None:
    report.write([*FIGURES, *COSTS], {}, folder=tmp_path)
    rows = summary.tables(tmp_path)["costs"].splitlines()[2:]
    assert rows == [
        f"| {resource} | {says.format(*['4.25'] * len(measures))} | {default} |"
        for resource, (says, measures, default) in summary.COSTS.items()
    ]


def test_the_tables_replace_those_of_readme(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report.write([*FIGURES, *COSTS], {}, folder=tmp_path)
    readme, made = tmp_path / "README.md", summary.tables(tmp_path)
    readme.write_text(summary.README.read_text())
    monkeypatch.setattr(summary, "README", readme)
    monkeypatch.setattr(summary, "tables", lambda: made)
    summary.write()
    assert summary.shown() == made


def test_a_row_that_was_not_measured_is_named(tmp_path: pathlib.Path) -> None:
    report.write([Result(next(iter(summary.ROWS.values())), "", V3, 1, 2, Goal("ours", "<=", 1))], {}, folder=tmp_path)
    with pytest.raises(KeyError, match=NGINX):
        summary.tables(tmp_path)
