# SPDX-License-Identifier: GPL-3.0-or-later
"""Files in Debian root file systems."""

from __future__ import annotations

import pathlib

import pytest

from sandbox import debian


@pytest.mark.parametrize(
    ("link", "to"),
    [
        ("lib64/loader", "/lib/loader"),  # like the program loader of Debian 12
        ("lib64/loader", "../lib/loader"),
        ("lib64/loader", "../../../lib/loader"),  # there is nothing above a root
        ("lib64", "/lib"),
        ("lib64", "lib"),
    ],
)
def test_links_stay_within_the_root(tmp_path: pathlib.Path, link: str, to: str) -> None:
    root = tmp_path / "root"
    (root / "lib").mkdir(parents=True)
    (root / "lib" / "loader").write_text("in the root")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "loader").write_text("outside of the root")
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(to)
    assert debian.inside(root, "/lib64/loader") == root / "lib" / "loader"
