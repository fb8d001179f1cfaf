# SPDX-License-Identifier: GPL-3.0-or-later
"""README has the figures of the last bench, not those of an earlier one."""

from __future__ import annotations

import json
import pathlib

import pytest

from bench import summary


def test_readme_shows_the_last_results() -> None:
    assert summary.shown() == summary.table()


def test_a_row_that_is_gone_is_told(tmp_path: pathlib.Path) -> None:
    rows = [{"measure": row, "ours": 1.0, "peer": 2.0} for row in summary.ROWS["latest"].values()]
    (tmp_path / "latest.json").write_text(json.dumps(rows))
    assert summary.table(tmp_path).count("| 1 | 2 |") == len(rows)
    (tmp_path / "latest.json").write_text(json.dumps(rows[1:]))
    with pytest.raises(KeyError, match="100 clients"):
        summary.table(tmp_path)
