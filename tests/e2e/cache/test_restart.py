# SPDX-License-Identifier: GPL-3.0-or-later
"""The program is stopped or killed, and starts again with its store."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox.steps import wait
from tests.e2e.registry import ask

from .blobs import path, read
from .conftest import Start
from .program import Program
from .upstream import NAME, Upstream, noise

_MIB = 1 << 20


def test_a_pull_shorter_than_the_drain_time_is_completed(start: Start, upstream: Upstream) -> None:
    """Slow reads and fetches that end within the drain time are complete; new connections are refused."""
    program = start(drain="10s")
    stored, slow, other = (upstream.blob(noise(6 * _MIB, number)) for number in range(3))
    assert read(program.endpoint, stored)[1] == stored
    upstream.rule(f"GET .*/blobs/{slow}", rate=2 * _MIB)
    upstream.rule(f"GET .*/blobs/{other}", hold=_MIB)
    with ThreadPoolExecutor(24) as executor:
        pulls = [executor.submit(read, program.endpoint, stored, 2 * _MIB) for _ in range(8)]
        pulls += [executor.submit(read, program.endpoint, slow) for _ in range(8)]
        pulls += [executor.submit(read, program.endpoint, other) for _ in range(8)]
        wait(lambda: program.sample("registry_cache_readers") >= 3, 5, "readers of three blobs", every=0.05)
        time.sleep(0.5)
        began = time.monotonic()
        program.terminate()
        threading.Timer(2, upstream.heal).start()
        time.sleep(1.5)
        assert not program.ready()
        with pytest.raises(OSError):
            ask(program.endpoint, path(stored))
        got = [pull.result() for pull in pulls]
    assert [one[1] for one in got] == [stored] * 8 + [slow] * 8 + [other] * 8
    assert program.process and program.process.wait(10) == 0
    assert time.monotonic() - began < 10


def test_a_pull_longer_than_the_drain_time_is_interrupted(start: Start, upstream: Upstream) -> None:
    program = start(drain="1s")
    blob = upstream.blob(noise(2 * _MIB))
    fetch = upstream.rule("GET .*/blobs/", hold=_MIB)
    with ThreadPoolExecutor(1) as executor:
        pull = executor.submit(read, program.endpoint, blob)
        assert fetch.began.wait(5)
        time.sleep(0.3)
        began = time.monotonic()
        program.terminate()
        assert program.process and program.process.wait(8) == 0
        assert 0.9 < time.monotonic() - began < 6
        with pytest.raises((OSError, http.client.HTTPException)):
            pull.result()
    assert "connections=1 drain=1s" in program.output()


def test_a_stop_without_requests_is_fast(program: Program) -> None:
    idle = http.client.HTTPConnection("127.0.0.1", program.port)
    idle.request("GET", "/alive")
    idle.getresponse().read()
    began = time.monotonic()
    assert program.stop() == 0
    assert time.monotonic() - began < 3
    idle.close()


@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_complete_content_is_served_without_the_upstream(start: Start, upstream: Upstream, how: str) -> None:
    program = start(drain="200ms")
    whole = [upstream.blob(noise(3 * _MIB, f"whole {number}")) for number in range(4)]
    parts = [upstream.blob(noise(3 * _MIB, f"part {number}")) for number in range(4)]
    known, layer = upstream.image("1.0", layer=noise(100_000, "layer"))
    other, _ = upstream.image("2.0", layer=b"another")
    for blob in (*whole, layer):
        assert read(program.endpoint, blob)[1] == blob
    for reference in ("1.0", "2.0", known):
        assert program.ask(f"/v2/{NAME}/manifests/{reference}").status == 200
    fetches = [upstream.rule(f"GET .*/blobs/{blob}", hold=_MIB + number) for number, blob in enumerate(parts)]
    with ThreadPoolExecutor(4) as executor:
        pulls = [executor.submit(read, program.endpoint, blob) for blob in parts]
        assert all(fetch.began.wait(5) for fetch in fetches)
        time.sleep(0.5)
        if how == "terminated":
            program.stop()
        else:
            program.kill()
        for pull in pulls:
            with pytest.raises((OSError, http.client.HTTPException)):
                pull.result()
    upstream.heal()
    upstream.rule("", status=503)
    program.start()
    for blob in (*whole, layer):
        assert read(program.endpoint, blob)[1] == blob
    for reference, expected in (("1.0", known), (known, known), ("2.0", other)):
        answer = program.ask(f"/v2/{NAME}/manifests/{reference}")
        assert (answer.status, answer.headers["docker-content-digest"]) == (200, expected)
        assert ("warning" in answer.headers) == (reference != known)
    for blob in parts:
        assert program.ask(path(blob)).status == 503
    assert program.used() < 14 * _MIB
    upstream.heal()
    time.sleep(3.1)  # an error is remembered for two seconds, an outage for three
    for blob in parts:
        assert read(program.endpoint, blob)[1] == blob


def test_kills_during_fetches(start: Start, upstream: Upstream) -> None:
    """The program is killed repeatedly during fetches: every complete body is correct, and finally all are complete."""
    program = start(store={"limit": "64Mi"})
    contents = {number: noise(2 * _MIB + number, number) for number in range(40)}
    blobs = [upstream.blob(content) for content in contents.values()]
    upstream.rule("GET .*/blobs/", rate=16 * _MIB)
    whole, stop = [], threading.Event()

    def pull(first: int) -> None:
        number = first
        while not stop.is_set():
            blob, number = blobs[number % 40], number + 7
            try:
                status, got, _ = read(program.endpoint, blob)
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)
                continue
            if status == 200:
                assert got == blob
                whole.append(blob)

    with ThreadPoolExecutor(6) as executor:
        pulls = [executor.submit(pull, number) for number in range(6)]
        try:
            for round_ in range(5):
                before = len(whole)
                wait(lambda before=before: len(whole) > before + 8, 20, "pulls", every=0.02)
                time.sleep(0.03 * round_)
                program.kill()
                program.start()
        finally:
            stop.set()
        for one in pulls:
            one.result()
    assert program.used() <= 64 * _MIB
    for blob in blobs:
        assert read(program.endpoint, blob)[1] == blob


def test_content_that_changed_on_disk_is_never_a_complete_body(program: Program, upstream: Upstream) -> None:
    """A stored blob was changed on the disk while the program did not run."""
    content = noise(3 * _MIB)
    blob = upstream.blob(content)
    assert read(program.endpoint, blob)[1] == blob
    program.stop()
    (file,) = (one for one in program.store.rglob("*") if one.is_file() and one.stat().st_size == len(content))
    with file.open("r+b") as opened:
        opened.seek(_MIB)
        opened.write(b"wrong")
    program.start()
    with contextlib.suppress(OSError, http.client.HTTPException):
        assert read(program.endpoint, blob)[1] == blob
    assert read(program.endpoint, blob)[1] == blob
    assert program.sample("registry_cache_corrupt_total") == 1
