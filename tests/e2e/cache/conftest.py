# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures: an upstream that tests control, and the cache in front of it."""

from __future__ import annotations

import pathlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .blobs import read
from .program import Program
from .upstream import Upstream, digest, noise

_MIB = 1 << 20

Start = Callable[..., Program]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
    yield made
    made.heal()
    made.shutdown()
    made.server_close()


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder that all users can read, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="cache-") as name:
        path = pathlib.Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def start(folder: pathlib.Path, upstream: Upstream, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts the program with changes to its configuration. Its log is shown if the test fails."""
    made: list[Program] = []

    def begin(**changes: Any) -> Program:
        made.append(Program(folder / "program", upstream.url, changes))
        return made[-1].start()

    yield begin
    upstream.heal()  # ends hanging requests
    for program in made:
        program.kill()
        print(program.output()[-4000:])


@pytest.fixture
def program(start: Start) -> Program:
    return start()


@pytest.fixture(params=["stored", "growing"])
def large(request: pytest.FixtureRequest, program: Program, upstream: Upstream) -> Iterator[bytes]:
    """A blob that is stored, or that is half fetched."""
    content = noise(2 * _MIB)
    upstream.blob(content)
    if request.param == "stored":
        assert read(program.endpoint, digest(content))[0] == 200
        upstream.rule("", status=500)
        yield content
        return
    fetch = upstream.rule("GET .*/blobs/", hold=_MIB)
    with ThreadPoolExecutor(1) as executor:
        first = executor.submit(read, program.endpoint, digest(content))
        assert fetch.began.wait(10)
        threading.Timer(0.5, fetch.release).start()
        yield content
        assert first.result() == (200, digest(content), len(content))
    assert upstream.count("GET .*/blobs/") == 1
