# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas are configured with keys that the program knows."""

from __future__ import annotations

import pathlib
import re
from types import SimpleNamespace
from typing import Any

from bench import cache
from sandbox.settings import ROOT

UPSTREAM: Any = SimpleNamespace(port=8080, url="http://127.0.0.1:8080")


def keys(value: object) -> set[str]:
    """Returns the keys of all mappings."""
    if isinstance(value, dict):
        return set(value) | {key for one in value.values() for key in keys(one)}
    return {key for one in value for key in keys(one)} if isinstance(value, list) else set()


def test_keys() -> None:
    source = "".join(file.read_text() for file in (ROOT / "docker" / "registry" / "internal" / "config").glob("*.go"))
    known = set(re.findall(r'yaml:"([a-z_]+)', source))
    users, helper = pathlib.Path("/users"), pathlib.Path("/helper")
    config = cache.config(pathlib.Path("/folder"), "127.18.0.1:5000", users, UPSTREAM, helper, 64 << 20)
    peers = cache.peers(1, pathlib.Path("/secret"), ["127.18.0.1:5005", "127.18.0.2:5005"])
    assert keys(config | peers) <= known
    assert config["store"] == {"path": "/folder/store", "limit": 64 << 20}
    assert config["auth"] == {"htpasswd": "/users"}
    assert config["listen"] == "127.18.0.1:5000"
    assert peers["peers"]["listen"] == peers["peers"]["members"][1]["address"] == "127.18.0.2:5005"
    assert peers["peers"]["name"] == peers["peers"]["members"][1]["name"]


def test_without_credentials() -> None:
    config = cache.config(pathlib.Path("/folder"), "127.18.0.1:5000", None, UPSTREAM, pathlib.Path("/helper"), 64 << 20)
    assert config["auth"] == "none"
