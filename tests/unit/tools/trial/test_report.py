# SPDX-License-Identifier: GPL-3.0-or-later
"""What `make try` prints."""

from __future__ import annotations

import pathlib

import pytest

from tools.trial import report
from tools.trial.cache import Cache, Counts
from tools.trial.reference import parse


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "nothing"), (1, "1 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (8_390_000, "8.4 MB"), (2.5e9, "2.5 GB")],
)
def test_size(count: float, text: str) -> None:
    assert report.size(count) == text


def test_numbers() -> None:
    first = report.Pull(1.234, Counts(3_000_000, 2_999_000, 3_000_000))
    second = report.Pull(0.1, Counts(500, 0, 3_000_000))
    text = report.numbers(first, second, "ghcr.io", ", while it is out")
    assert "3.0 MB served in 1.23 s, 3.0 MB fetched from ghcr.io" in text
    assert "3.0 MB served in 0.10 s, 500 bytes fetched, while it is out" in text
    assert text.endswith("6.0 MB served, 3.0 MB fetched: 50 % saved")
    nothing = report.Pull(0, Counts(0, 0, 0))
    assert report.numbers(nothing, nothing, "a", "").endswith("nothing served, nothing fetched: 0 % saved")


def test_commands_hold_no_password(tmp_path: pathlib.Path) -> None:
    cache = Cache(tmp_path, parse("ghcr.io/owner/image:1.0"), 5000, 5006)
    text = report.commands(cache, ["owner/image:1.0", "owner/image:2.0"])
    assert cache.password.read_text() not in text and str(cache.password) in text
    assert "localhost:5000/owner/image:2.0" in text and "http://localhost:5000/v2/owner/image/tags/list" in text
    assert "http://localhost:5006/metrics" in text
