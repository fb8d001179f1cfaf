# SPDX-License-Identifier: GPL-3.0-or-later
"""A credential helper that hangs or fails delays no request for cached content."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox.steps import wait

from .blobs import path
from .conftest import Start
from .program import HOST, Program
from .upstream import NAME, USER, Upstream, digest, noise

_MIB = 1 << 20
_SECRET = "the-upstream's"


@pytest.fixture
def helper(folder: pathlib.Path, upstream: Upstream) -> pathlib.Path:
    """A helper that executes the file `does` beside it, such as `exit 1`, and records its runs."""
    made = folder / "docker-credential-test"
    answer = json.dumps({"ServerURL": upstream.url, "Username": USER, "Secret": _SECRET})
    (folder / "answer").write_text(answer)
    (folder / "runs").write_text("")
    (folder / "runs").chmod(0o666)
    (folder / "does").write_text("")
    made.write_text(f"#!/bin/sh\necho run >> {folder}/runs\ncat > /dev/null\n. {folder}/does\ncat {folder}/answer\n")
    made.chmod(0o755)
    upstream.secret = _SECRET
    return made


def processes(program: Program) -> int:
    """Returns the number of processes in the program's session."""
    assert program.process
    found = 0
    for file in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # a process may end meanwhile
            found += file.read_text().rpartition(")")[2].split()[3] == str(program.process.pid)
    return found


def with_helper(start: Start, upstream: Upstream, helper: pathlib.Path) -> Program:
    credential = {"helper": str(helper), "lifetime": "1s", "timeout": "1s"}
    return start(upstreams=[{"host": HOST, "url": upstream.url, "credential": credential}], tags={"ttl": "100ms"})


@pytest.mark.parametrize("what", ["exec sleep 60", "sleep 60; exit 1", "exit 1", "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaa; done"])
def test_a_helper_that_hangs_or_fails(start: Start, upstream: Upstream, helper: pathlib.Path, what: str) -> None:
    """Requests once waited for a mutex while the helper hung, even those for cached content."""
    program = with_helper(start, upstream, helper)
    known, layer = upstream.image("1.0", layer=noise(100_000, "known"))
    assert program.ask(f"/v2/{NAME}/manifests/1.0").status == 200
    assert program.ask(path(layer)).status == 200
    (helper.parent / "does").write_text(f"{what}\n")
    time.sleep(1.1)  # until the last token has expired
    absent = [upstream.blob(noise(1000, number)) for number in range(100)]
    before, runs = program.resident(), (helper.parent / "runs").stat().st_size

    def failed(number: int) -> float:
        began = time.monotonic()
        answer = program.ask(f"/v2/p/r/absent-{number}/blobs/{absent[number]}")  # a repository without a token
        assert answer.status in (500, 502, 503, 504) and answer.error == "UNAVAILABLE", answer
        assert int(answer.headers["retry-after"]) > 0
        return time.monotonic() - began

    with ThreadPoolExecutor(100) as executor:
        failures = [executor.submit(failed, number) for number in range(100)]
        slowest, running = 0.0, 0
        while not all(failure.done() for failure in failures):
            began = time.monotonic()
            assert digest(program.ask(path(layer)).body) == layer
            assert program.ask(f"/v2/{NAME}/manifests/{known}").status == 200
            slowest, running = max(slowest, time.monotonic() - began), max(running, processes(program))
            time.sleep(0.05)
        assert max(failure.result() for failure in failures) < 4
    assert slowest < 0.7
    assert 1 <= running <= 5
    assert program.resident() - before < 20 * _MIB
    assert (helper.parent / "runs").stat().st_size - runs <= 3 * len("run\n")
    assert program.sample("registry_cache_credential_failures_total") > 0
    assert _SECRET not in program.output()
    (helper.parent / "does").write_text("")
    wait(lambda: program.ask(f"/v2/p/r/absent-0/blobs/{absent[0]}").status == 200, 10, "a credential", every=0.2)
