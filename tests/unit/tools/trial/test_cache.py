# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports, configuration and metrics of the cache of `make try`."""

from __future__ import annotations

import pathlib
import socket

import pytest

from tools.trial import cache
from tools.trial.errors import Refused
from tools.trial.reference import parse

_IMAGE = parse("ghcr.io/owner/image:1.0")


def test_ports() -> None:
    assert len({*cache.ports(), *cache.ports()}) >= 2
    free, _ = cache.ports()
    client, metrics = cache.ports(str(free))
    assert client == free != metrics


@pytest.mark.parametrize("port", ["0", "65536", "80x", "-1", "²"])
def test_an_invalid_port(port: str) -> None:
    with pytest.raises(Refused, match=f"PORT={port} .*for example PORT="):
        cache.ports(port)


def test_a_busy_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        with pytest.raises(Refused, match=rf"PORT={port} cannot be used \(Address already in use\): choose another"):
            cache.ports(port)


def test_it_listens_only_on_loopback_and_has_users(tmp_path: pathlib.Path) -> None:
    config = cache.config(tmp_path, _IMAGE, 5000, 5006, tmp_path / "helper")
    assert config["listen"] == "127.0.0.1:5000" and config["metrics"]["listen"] == "127.0.0.1:5006"
    assert config["auth"] == {"htpasswd": f"{tmp_path}/htpasswd"}
    (upstream,) = config["upstreams"]
    assert upstream["credential"]["helper"] == f"{tmp_path}/helper"
    (upstream,) = cache.config(tmp_path, _IMAGE, 5000, 5006, None)["upstreams"]
    assert upstream == {"host": "ghcr.io", "url": "https://ghcr.io"}


def test_only_the_user_can_read_the_password(tmp_path: pathlib.Path) -> None:
    made = cache.Cache(tmp_path, _IMAGE, 5000, 5006)
    assert made.password.stat().st_mode & 0o777 == 0o600 and len(made.password.read_text()) == 32
    assert made.status("/") == 0 and not made.running()


def test_counts() -> None:
    text = """# HELP registry_cache_upstream_received_bytes_total bytes
registry_cache_upstream_received_bytes_total{kind="blob",upstream="a"} 3e+06
registry_cache_upstream_received_bytes_total{kind="tag",upstream="a"} 400
registry_cache_sent_bytes_total{kind="blob",result="hit"} 1000
registry_cache_sent_bytes_total{kind="blob",result="miss"} 2000
registry_cache_sent_bytes_total_created 5
up 1
"""
    found = cache.counts(text)
    assert found == cache.Counts(3000400, 3000000, 3000)
    assert found - cache.Counts(400, 0, 1000) == cache.Counts(3000000, 3000000, 2000)
    assert cache.counts("") == cache.Counts(0, 0, 0)
