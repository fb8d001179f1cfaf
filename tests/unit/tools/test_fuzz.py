# SPDX-License-Identifier: GPL-3.0-or-later
"""Fuzz tests are found and run."""

from __future__ import annotations

import pathlib

from tools import fuzz, tiers


def test_targets_are_found_by_package_and_name(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "internal" / "route"
    folder.mkdir(parents=True)
    (folder / "route_test.go").write_text("package route\n\nfunc FuzzParse(f *testing.F) {}\nfunc TestFuzzy(t *testing.T) {}\n")
    (folder / "route.go").write_text("package route\n\nfunc FuzzNothing() {}\n")
    found = fuzz.targets(tmp_path)
    assert found == {"route.FuzzParse": folder}
    argv = fuzz.command("route.FuzzParse", folder, 10, tmp_path)
    assert argv[-3:] == ["-fuzz=^FuzzParse$", "-fuzztime=10s", "./internal/route"]


def test_the_tiers_name_targets_that_exist() -> None:
    known = fuzz.targets(tiers.ROOT / "docker" / "registry")
    named = [word for stage in tiers.stages().values() if "tools.fuzz" in stage.run for word in stage.run if "Fuzz" in word]
    assert named and set(named) <= known.keys()
