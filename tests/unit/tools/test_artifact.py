# SPDX-License-Identifier: GPL-3.0-or-later
"""galaxy.yml leaves out of the artifact what users do not need."""

from __future__ import annotations

import fnmatch

import yaml

from sandbox.settings import ROOT
from tools import artifact


def test_every_file_at_the_top_is_shipped_or_left_out() -> None:
    patterns = yaml.safe_load((ROOT / "galaxy.yml").read_text())["build_ignore"]
    names = {file.parts[0] for file in artifact.files()}
    left_out = {name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)}
    # The build replaces galaxy.yml by MANIFEST.json.
    assert names - left_out - {"galaxy.yml"} == artifact.SHIPPED
