# SPDX-License-Identifier: GPL-3.0-or-later
"""README has the figures of the last bench, not those of an earlier one."""

from __future__ import annotations

from bench import summary


def test_readme_shows_the_last_results() -> None:
    assert summary.shown() == summary.table()
