# SPDX-License-Identifier: GPL-3.0-or-later
"""The one program is configured by keys that it knows."""

from __future__ import annotations

import pathlib
import re
from types import SimpleNamespace
from typing import Any

from bench import cache
from sandbox.settings import ROOT

UPSTREAM: Any = SimpleNamespace(port=8080, url="http://127.0.0.1:8080")


def keys(value: object) -> set[str]:
    """The keys of all mappings."""
    if isinstance(value, dict):
        return set(value) | {key for one in value.values() for key in keys(one)}
    return {key for one in value for key in keys(one)} if isinstance(value, list) else set()


def test_keys() -> None:
    source = (ROOT / "docker" / "registry" / "internal" / "config" / "config.go").read_text()
    known = set(re.findall(r'yaml:"([a-z_]+)', source))
    config = cache.config(pathlib.Path("/folder"), 5000, pathlib.Path("/users"), UPSTREAM, pathlib.Path("/helper"), 64 << 20)
    assert keys(config) <= known
    assert config["store"] == {"path": "/folder/store", "limit": 64 << 20}
    assert config["auth"] == {"htpasswd": "/users"}
    assert config["listen"].startswith("127.0.0.1:")


def test_without_credentials() -> None:
    config = cache.config(pathlib.Path("/folder"), 5000, None, UPSTREAM, pathlib.Path("/helper"), 64 << 20)
    assert config["auth"] == "none"
