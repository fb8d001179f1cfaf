# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for Google, an API server, a registry, docker and podman. Tests do not see the environment of their caller."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest

from tests.unit.plugins.google_wire import Wire
from tests.unit.plugins.image_stand_ins import Program, Registry
from tests.unit.plugins.kubernetes_api import ApiServer
from tests.unit.sandbox.google.harness import Google

_VARIABLES = ("GCP_", "GCE_", "GOOGLE_", "CLOUDSDK_", "K8S_AUTH_", "KUBECONFIG", "NETRC")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    for name in [name for name in os.environ if name.startswith((*_VARIABLES, *_PROXIES, *_BUNDLES))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture
def wire(google: Google, monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(google, monkeypatch)


@pytest.fixture
def server(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """An API server without objects."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # kubernetes.core has its discovery cache there
    running = ApiServer()
    yield running
    running.close()


@pytest.fixture
def cache_namespace(server: ApiServer) -> None:
    """The namespace of the cache."""
    server.namespace("registry-cache")


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry()
    yield server
    server.close()


@pytest.fixture
def programs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty directory as the PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in [*os.environ]:
        if name.lower().endswith("_proxy") or name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def docker(programs: pathlib.Path) -> Program:
    return Program(programs, "docker")


@pytest.fixture
def podman(programs: pathlib.Path) -> Program:
    return Program(programs, "podman")
