# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation's site, built once."""

from __future__ import annotations

import pathlib

import pytest

from tools import docs


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of the site. It is built without the network, once the environment of its tools is there."""
    target = tmp_path_factory.mktemp("docs") / "site"
    docs.tools()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            for variable in (name, name.upper()):
                patch.setenv(variable, "http://127.0.0.1:9")  # where nothing answers
        docs.build(target)
    return target
