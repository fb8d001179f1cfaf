# SPDX-License-Identifier: GPL-3.0-or-later
"""Blobs: one fetch for all clients, within an exact limit, with slow readers and a faulty upstream."""

from __future__ import annotations

import dataclasses
import http.client
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.usage import peak
from sandbox.steps import wait
from tests.e2e.registry import ask

from .blobs import path, read
from .conftest import Start
from .program import HOST, Program
from .upstream import NAME, Upstream, digest, noise

_MIB = 1 << 20
_LIMIT = 64 * _MIB


@pytest.mark.parametrize("size", [60, 65])
def test_clients_of_a_blob_as_large_as_the_store_share_a_fetch(start: Start, upstream: Upstream, size: int) -> None:
    """48 clients of a blob larger than 9/10 of the limit once got 503 and interrupted bodies."""
    program = start(store={"limit": "64Mi"})
    blob = upstream.blob(noise(size * _MIB))
    fetch = upstream.rule("GET .*/blobs/", hold=0)
    with peak(program.used, every=0.05) as used, peak(program.resident, every=0.05) as memory, ThreadPoolExecutor(48) as executor:
        pulls = [executor.submit(read, program.endpoint, blob) for _ in range(48)]
        assert fetch.began.wait(10)
        time.sleep(1)  # until all have sent their requests
        fetch.release()
        got = [pull.result() for pull in pulls]
    assert got == [(200, blob, size * _MIB)] * 48
    assert upstream.count("GET .*/blobs/") == 1
    assert used[0] <= _LIMIT
    assert memory[0] < 128 * _MIB


def test_slow_readers_of_more_than_the_store_holds(start: Start, upstream: Upstream) -> None:
    """With 64 MiB for 8 fetches of 14 MiB and 16 slow readers, 8 to 12 pulls were once interrupted."""
    program = start(store={"limit": "64Mi"})
    blobs = [upstream.blob(noise(14 * _MIB, number)) for number in range(8)]
    with peak(program.used, every=0.05) as used, ThreadPoolExecutor(16) as executor:
        pulls = [executor.submit(read, program.endpoint, blobs[number % 8], 2 * _MIB) for number in range(16)]
        got = [pull.result() for pull in pulls]
    assert got == [(200, blobs[number % 8], 14 * _MIB) for number in range(16)]
    assert used[0] <= _LIMIT
    assert max(upstream.count(f"GET .*{blob}") for blob in blobs) == 1


def test_a_blob_that_starts_late_arrives(program: Program, upstream: Upstream) -> None:
    """An upstream that needs 9 s to start a blob once caused 504 for ever, because each fetch was cancelled with its client."""
    blob = upstream.blob(noise(100_000))
    upstream.rule("GET .*/blobs/", delay=9)
    began = time.monotonic()
    assert read(program.endpoint, blob)[:2] == (200, blob)
    assert time.monotonic() - began < 12
    assert upstream.count("GET .*/blobs/") == 1


def test_a_client_that_gave_up_gets_the_blob_when_it_retries(start: Start, upstream: Upstream) -> None:
    """The fetch continues after the first client got an error, and after it left."""
    program = start(outage={"blob_timeout": "500ms"})
    slow, left = (upstream.blob(noise(100_000, number)) for number in range(2))
    upstream.rule("GET .*/blobs/", delay=2)
    answer = program.ask(path(slow))
    assert (answer.status, answer.error, "retry-after" in answer.headers) == (504, "UNAVAILABLE", True)
    with pytest.raises(TimeoutError):
        ask(dataclasses.replace(program.endpoint, timeout=0.2), path(left))
    for blob in (slow, left):
        wait(lambda blob=blob: program.ask(path(blob)).status == 200, 6, "the blob", every=0.1)
        assert read(program.endpoint, blob)[1] == blob
        assert upstream.count(f"GET .*{blob}") == 1


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
def test_a_blob_of_another_repository(start: Start, upstream: Upstream, shared: bool) -> None:
    """Repositories of an upstream share a blob unless `share_blobs` is false."""
    program = start(upstreams=[{"host": HOST, "url": upstream.url, "share_blobs": shared}])
    blob = upstream.blob(noise(100_000))
    for name in (NAME, "p/r/another", NAME):
        assert digest(program.ask(f"/v2/{name}/blobs/{blob}").body) == blob
    asked = [seen.path.partition("/blobs/")[0] for seen in upstream.seen("GET .*/blobs/")]
    assert asked == [f"/v2/{NAME}"] + ([] if shared else ["/v2/p/r/another"])


def test_an_empty_blob(program: Program, upstream: Upstream) -> None:
    """A stored empty blob once caused 500, because the answer only began with the first byte of the body."""
    empty = upstream.blob(b"")
    for _ in range(2):
        for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-"})):
            answer = program.ask(path(empty), method, **headers)
            assert (answer.status, answer.headers["content-length"], answer.body) == (200, "0", b"")
    assert upstream.count(f"GET .*{empty}") == 1


def test_the_least_recently_used_blob_is_evicted_first(start: Start, upstream: Upstream) -> None:
    program = start(store={"limit": "64Mi"})
    blobs = [upstream.blob(noise(10 * _MIB, number)) for number in range(7)]
    for blob in (*blobs[:6], blobs[0], blobs[6]):
        assert read(program.endpoint, blob)[1] == blob
    upstream.rule("", status=500)
    kept = [program.ask(path(blob), "HEAD").status == 200 for blob in blobs]
    assert kept == [True, False, True, True, True, True, True]


def written(program: Program) -> int:
    """Returns the bytes that the program caused to be written to disk."""
    assert program.process
    with open(f"/proc/{program.process.pid}/io", encoding="ascii") as file:
        return int(dict(line.split(": ") for line in file)["write_bytes"])


def test_content_is_written_once(program: Program, upstream: Upstream) -> None:
    """Content was once stored twice, by two programs of a replica."""
    blobs = [upstream.blob(noise(4 * _MIB, number)) for number in range(8)]
    before, fetched = written(program), 8 * 4 * _MIB
    with peak(program.used, every=0.05) as used:
        for blob in blobs:
            assert read(program.endpoint, blob)[1] == blob
        wait(lambda: program.sample("registry_cache_disk_used_bytes") >= fetched, 5, "stored blobs", every=0.1)
        time.sleep(0.2)
    if not (bytes_written := written(program) - before):
        pytest.skip("this file system counts no written bytes")
    assert bytes_written <= 1.05 * fetched
    assert used[0] <= 1.05 * fetched


def test_the_whole_limit_is_usable(start: Start, upstream: Upstream) -> None:
    """Each of the two copies once had half of the limit."""
    program = start(store={"limit": "64Mi"})
    blobs = [upstream.blob(noise(4 * _MIB, number)) for number in range(15)]
    for blob in blobs:
        assert read(program.endpoint, blob)[1] == blob
    upstream.rule("", status=500)
    for blob in blobs:
        assert read(program.endpoint, blob)[1] == blob
    assert program.used() <= _LIMIT


def whole(program: Program, blob: str) -> str:
    """Returns the digest of the body, or nothing if it was interrupted or the status is 502."""
    try:
        status, digest, _ = read(program.endpoint, blob)
    except (OSError, http.client.HTTPException):
        return ""
    assert status in (200, 502)
    return digest if status == 200 else ""


def test_a_corrupt_body_is_never_complete(program: Program, upstream: Upstream) -> None:
    blob = upstream.blob(noise(200_000))
    upstream.rule("GET .*/blobs/", times=1, corrupt=True)
    assert whole(program, blob) in ("", blob)  # correct if the blob was fetched again before the answer began
    wait(lambda: program.ask(path(blob), "HEAD").status == 200, 5, "the right blob", every=0.1)
    assert read(program.endpoint, blob) == (200, blob, 200_000)


def test_an_interrupted_fetch_is_resumed(program: Program, upstream: Upstream) -> None:
    blob = upstream.blob(noise(200_000))
    upstream.rule("GET .*/blobs/", times=1, cut=150_000)
    assert read(program.endpoint, blob) == (200, blob, 200_000)
    assert upstream.seen("GET .*/blobs/")[-1].headers["range"] == "bytes=150000-"


def test_a_fetch_that_is_always_interrupted_fails(program: Program, upstream: Upstream) -> None:
    blob = upstream.blob(noise(200_000))
    upstream.rule("GET .*/blobs/", cut=150_000)
    assert not whole(program, blob)
    upstream.heal()
    wait(lambda: program.ask(path(blob), "HEAD").status == 200, 5, "the whole blob", every=0.1)
    assert read(program.endpoint, blob) == (200, blob, 200_000)
