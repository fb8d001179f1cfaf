# SPDX-License-Identifier: GPL-3.0-or-later
"""An upstream in this process, with an image."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Iterator

import pytest

from bench.content import Image, Library
from bench.endpoint import Endpoint
from bench.paced_upstream.server import Server
from bench.paced_upstream.state import USER, Settings, State

SECRET = "upstream-secret"


@pytest.fixture
def library(tmp_path: pathlib.Path) -> Library:
    return Library(tmp_path)


@pytest.fixture
def image(library: Library) -> Image:
    return library.image("bench/some", (3 << 20, 100_000))


@pytest.fixture
def state(library: Library) -> State:
    return State(library, SECRET, Settings())


@pytest.fixture
def server(state: State) -> Iterator[Server]:
    with Server(state) as one:
        threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield one
        one.shutdown()


@pytest.fixture
def endpoint(server: Server) -> Endpoint:
    return Endpoint(server.server_address[1], USER, SECRET, timeout=10)
