# SPDX-License-Identifier: GPL-3.0-or-later
"""The text that `make try` prints."""

from __future__ import annotations

import pathlib

from tools.trial import report
from tools.trial.cache import Cache, Counts
from tools.trial.reference import parse


def test_numbers() -> None:
    first = report.Pull(1.234, Counts(3_000_000, 2_999_000, 3_000_000))
    second = report.Pull(0.1, Counts(500, 0, 3_000_000))
    *_, together = report.numbers(first, second, "ghcr.io", "").splitlines()
    assert [figure in together for figure in ("6.0 MB", "3.0 MB", "50 %")] == [True] * 3
    nothing = report.Pull(0, Counts(0, 0, 0))
    assert "0 %" in report.numbers(nothing, nothing, "ghcr.io", "")


def test_commands_contain_no_password(tmp_path: pathlib.Path) -> None:
    cache = Cache(tmp_path, parse("ghcr.io/owner/image:1.0"), 5000, 5006)
    text = report.commands(cache, ["owner/image:1.0", "owner/image:2.0"])
    assert cache.password.read_text() not in text and str(cache.password) in text
    assert "localhost:5000/owner/image:2.0" in text and "http://localhost:5000/v2/owner/image/tags/list" in text
    assert "http://localhost:5006/metrics" in text
