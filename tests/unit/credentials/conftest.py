# SPDX-License-Identifier: GPL-3.0-or-later
"""Shields the tests from the environment of whoever runs them."""

from __future__ import annotations

import os
import pathlib

import pytest

_VARIABLES = ("K8S_AUTH_", "KUBECONFIG", "NETRC", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    for name in [name for name in os.environ if name.startswith((*_VARIABLES, *_BUNDLES))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
