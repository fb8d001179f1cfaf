# SPDX-License-Identifier: GPL-3.0-or-later
"""`make matrix` checks that it tested the oldest supported versions."""

from __future__ import annotations

from tools import matrix

OLDEST = [matrix._LOWEST[name].removeprefix(">=") for name in ("kubernetes.core", "google.cloud")]


def test_the_oldest_versions_are_those_of_galaxy_yml() -> None:
    assert matrix.untested([["6.10.0", "1.15.0"], OLDEST]) == []


def test_an_oldest_version_that_was_not_tested_is_named() -> None:
    # Compared as numbers: 1.15 is newer than 1.4.
    (wrong,) = matrix.untested([[OLDEST[0], "1.15.0"], ["6.10.0", "1.9.0"]])
    assert "google.cloud" in wrong and wrong.endswith("1.9.0.")
