# SPDX-License-Identifier: GPL-3.0-or-later
"""The report has all measurements, and whether each goal was met."""

from __future__ import annotations

import json
import pathlib
import xml.etree.ElementTree as ElementTree

from bench import report
from bench.report import Goal, Result

FASTER = Result("warm pull", "s", "distribution 3", 0.007, 0.32, Goal("ratio", "<=", 1 / 30))
SLOWER = Result("warm bytes", "MiB/s", "raw nginx", 900, 1000, Goal("ratio", ">=", 1))
NONE_WRONG = Result("wrong bodies", "", "distribution 3", 0, 20, Goal("ours", "<=", 0))
NO_PEER = Result("memory", "MiB", "nothing", 80, 0, Goal("ours", "<=", 100))
UNMEASURED = Result("more than memory", "MiB/s", "raw nginx", None, None, Goal("ratio", ">=", 0.9), "no cgroup here")
WITHOUT_GOAL = Result("warm pull", "s", "distribution 2.8", 0.007, 0.3)
ALL = (FASTER, SLOWER, NONE_WRONG, NO_PEER, UNMEASURED, WITHOUT_GOAL)


def test_goals() -> None:
    assert [result.met for result in ALL] == [True, False, True, True, False, None]


def test_a_missing_value_misses_its_goal() -> None:
    never = Result("first byte", "s", "distribution 3", float("inf"), 0.1, Goal("ours", "<=", 0.5))
    assert never.met is False
    assert (never.ratio, never.data()["ours"]) == (None, None)


def test_the_files(tmp_path: pathlib.Path) -> None:
    report.write(ALL, {"date": "2026-01-01", "machine": "2 × CPU"}, folder=tmp_path)
    data = json.loads((tmp_path / "latest.json").read_text())
    assert [sorted(entry) for entry in data] == [["goal", "measure", "met", "ours", "peer", "ratio"]] * len(ALL)
    assert data[0] == {
        "measure": "warm pull [s], against distribution 3",
        "ours": 0.007,
        "peer": 0.32,
        "ratio": 0.02187,
        "goal": "ratio <= 0.03333",
        "met": True,
    }
    assert (data[2]["ratio"], data[3]["ratio"], data[4]["ratio"]) == (0, None, None)
    page = (tmp_path / "latest.md").read_text()
    assert "- machine: 2 × CPU" in page
    assert "| warm bytes [MiB/s] | raw nginx | 900 | 1,000 | 0.9 | ratio >= 1 | **no** |" in page
    assert "no cgroup here" in page
    assert "make bench-kind" in page
    drawn = [e for e in ElementTree.parse(tmp_path / "latest.svg").iter() if e.tag.endswith("rect")]
    assert len(drawn) == 1 + sum(bool(result.ratio) for result in ALL)
