# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the module tests: the stand-in for Google behind the session that the modules use."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "sandbox"))

from google_harness import Google, Keys
from google_wire import Wire

_VARIABLES = ["GCP_", "GCE_", "K8S_AUTH_", "GOOGLE_", "KUBECONFIG", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have credentials and proxies in the environment."""
    for name in [name for name in os.environ if name.startswith(tuple(_VARIABLES))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def keys() -> Keys:
    return Keys()


@pytest.fixture
def google(tmp_path: pathlib.Path, keys: Keys) -> Iterator[Google]:
    standin = Google(tmp_path, keys)
    yield standin
    standin.close()


@pytest.fixture
def wire(google: Google, monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(google, monkeypatch)
