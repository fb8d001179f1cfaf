# SPDX-License-Identifier: GPL-3.0-or-later
"""Blobs: one fetch for all who ask, within an exact limit, whatever the readers and the upstream do."""

from __future__ import annotations

import contextlib
import dataclasses
import email
import email.policy
import hashlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.client import Endpoint
from sandbox.steps import wait
from tests.e2e.registry import ask, authorization

from .conftest import Start
from .program import HOST, Program
from .upstream import NAME, Upstream, digest, noise

_MIB = 1 << 20
_LIMIT = 64 * _MIB


def path(name: str) -> str:
    return f"/v2/{NAME}/blobs/{name}"


def read(endpoint: Endpoint, name: str, rate: int = 0, **headers: str) -> tuple[int, str, int]:
    """GET a blob, without a second try: status, digest and size of what came. A body that is cut raises."""
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=60)
    hashed, size = hashlib.sha256(), 0
    try:
        connection.connect()
        if rate:
            # The kernel keeps little for a slow reader.
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        connection.request("GET", path(name), headers={**authorization(endpoint), **headers})
        answer, began = connection.getresponse(), time.monotonic()
        while piece := answer.read(64 << 10 if rate else _MIB):
            hashed.update(piece)
            size += len(piece)
            if rate:
                time.sleep(max(0, began + size / rate - time.monotonic()))
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        return answer.status, f"sha256:{hashed.hexdigest()}", size
    finally:
        connection.close()


@contextlib.contextmanager
def watched(measure: Callable[[], int]) -> Iterator[list[int]]:
    """The highest value of a measure, in a list of one."""
    highest, ended = [measure()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            highest[0] = max(highest[0], measure())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield highest
    finally:
        ended.set()
        thread.join()


def test_slow_readers_of_more_than_the_store_holds(start: Start, upstream: Upstream) -> None:
    """With 64 MiB for 8 fills of 14 MiB and 16 slow readers, 8 to 12 pulls were cut."""
    program = start(store={"limit": "64Mi"})
    blobs = [upstream.blob(noise(14 * _MIB, number)) for number in range(8)]
    with watched(program.used) as used, ThreadPoolExecutor(16) as executor:
        pulls = [executor.submit(read, program.endpoint, blobs[number % 8], 2 * _MIB) for number in range(16)]
        got = [pull.result() for pull in pulls]
    assert got == [(200, blobs[number % 8], 14 * _MIB) for number in range(16)]
    assert used[0] <= _LIMIT
    assert max(upstream.count(f"GET .*{blob}") for blob in blobs) == 1


def test_clients_of_a_blob_above_the_limit_share_a_fetch(start: Start, upstream: Upstream) -> None:
    """48 clients of a blob above the limit got 503 and bodies that were cut."""
    program = start(store={"limit": "64Mi"})
    size = 65 * _MIB
    blob = upstream.blob(noise(size))
    fetch = upstream.rule("GET .*/blobs/", hold=0)
    with watched(program.used) as used, watched(program.resident) as memory, ThreadPoolExecutor(48) as executor:
        pulls = [executor.submit(read, program.endpoint, blob) for _ in range(48)]
        assert fetch.began.wait(10)
        time.sleep(1)  # until all have asked
        fetch.release()
        got = [pull.result() for pull in pulls]
    assert got == [(200, blob, size)] * 48
    assert upstream.count("GET .*/blobs/") == 1
    assert used[0] <= _LIMIT
    assert memory[0] < 128 * _MIB


def test_ranges_of_a_blob_above_the_limit_share_a_fetch(start: Start, upstream: Upstream) -> None:
    """30 ranges of a blob above the limit made 30 whole fetches."""
    program = start(store={"limit": "64Mi"})
    content = noise(65 * _MIB)
    blob = upstream.blob(content)
    fetch = upstream.rule("GET .*/blobs/", hold=0)
    with ThreadPoolExecutor(30) as executor:
        spans = [(number * 2 * _MIB, number * 2 * _MIB + 99_999) for number in range(30)]
        pulls = [executor.submit(program.ask, path(blob), Range=f"bytes={first}-{last}") for first, last in spans]
        assert fetch.began.wait(10)
        time.sleep(1)  # until all have asked
        fetch.release()
        for (first, last), pull in zip(spans, pulls, strict=True):
            answer = pull.result()
            assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {first}-{last}/{len(content)}")
            assert answer.body == content[first : last + 1]
    assert upstream.count("GET .*/blobs/") == 1


def parts(answer: http.client.HTTPResponse, body: bytes) -> list[tuple[str, bytes]]:
    """The parts of a multipart/byteranges answer: range and bytes."""
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    assert message.get_content_type() == "multipart/byteranges"
    return [(str(part["Content-Range"]), part.get_payload(decode=True)) for part in message.iter_parts()]  # type: ignore[union-attr, misc]


@pytest.fixture(params=["stored", "growing"])
def large(request: pytest.FixtureRequest, program: Program, upstream: Upstream) -> Iterator[bytes]:
    """A blob that is there, or of which one half is."""
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


@pytest.mark.parametrize("ranges", ["0-9,20-29", "0-9, 1999990-1999999", "100-199,-10", " 0-9 , , 20-29"])
def test_several_ranges(program: Program, large: bytes, ranges: str) -> None:
    """Several ranges in one request, as podman and stargz ask for, got 416 (at 94011b7)."""
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=10)
    connection.request("GET", path(digest(large)), headers={**authorization(program.endpoint), "Range": f"bytes={ranges}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status in (200, 206)
    if answer.status == 200:
        assert body == large
        return
    wanted = []
    for one in (span.strip() for span in ranges.split(",") if span.strip()):
        first, _, last = one.partition("-")
        begin, end = (int(first), int(last) + 1) if first else (len(large) - int(last), len(large))
        wanted.append((f"bytes {begin}-{end - 1}/{len(large)}", large[begin:end]))
    assert parts(answer, body) == wanted


@pytest.mark.parametrize("header", ["bytes=abc", "bytes=9-0", "bytes=-", "lines=0-9", "bytes", "bytes=0-9,x", "bytes=1-2-3"])
def test_a_malformed_range_is_ignored(program: Program, large: bytes, header: str) -> None:
    """A malformed Range got 416, which ends a pull; HTTP has it ignored (at 94011b7)."""
    answer = program.ask(path(digest(large)), Range=header)
    assert (answer.status, answer.body == large) == (200, True)


@pytest.mark.parametrize("first", [1, _MIB - 1, _MIB + 5, 2 * _MIB - 1])
def test_a_pull_is_resumed(program: Program, large: bytes, first: int) -> None:
    answer = program.ask(path(digest(large)), Range=f"bytes={first}-")
    assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {first}-{len(large) - 1}/{len(large)}")
    assert answer.body == large[first:]


def test_a_blob_that_takes_long_to_begin_arrives(program: Program, upstream: Upstream) -> None:
    """An upstream that needs 9 s to begin a blob made 504 for ever, because each fetch ended with its client."""
    blob = upstream.blob(noise(100_000))
    upstream.rule("GET .*/blobs/", delay=9)
    began = time.monotonic()
    assert read(program.endpoint, blob)[:2] == (200, blob)
    assert time.monotonic() - began < 12
    assert upstream.count("GET .*/blobs/") == 1


def test_a_client_that_gave_up_finds_the_blob_when_it_tries_again(start: Start, upstream: Upstream) -> None:
    """The fetch goes on when the first client has got its error, and when it has left."""
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
    """Once stored, it was 500: no byte of a body began the answer."""
    empty = upstream.blob(b"")
    for _ in range(2):
        for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-"})):
            answer = program.ask(path(empty), method, **headers)
            assert (answer.status, answer.headers["content-length"], answer.body) == (200, "0", b"")
    assert upstream.count(f"GET .*{empty}") == 1


def written(program: Program) -> int:
    """Bytes that the program has made the disk write, what was deleted before that included."""
    assert program.process
    with open(f"/proc/{program.process.pid}/io", encoding="ascii") as file:
        return int(dict(line.split(": ") for line in file)["write_bytes"])


def test_content_is_written_once(program: Program, upstream: Upstream) -> None:
    """Content was stored twice, in two programs of a replica."""
    blobs = [upstream.blob(noise(4 * _MIB, number)) for number in range(8)]
    before, fetched = written(program), 8 * 4 * _MIB
    with watched(program.used) as used:
        for blob in blobs:
            assert read(program.endpoint, blob)[1] == blob
        wait(lambda: program.sample("registry_cache_disk_used_bytes") >= fetched, 5, "stored blobs", every=0.1)
        time.sleep(0.2)
    if not (bytes_written := written(program) - before):
        pytest.skip("this file system counts no written bytes")
    assert bytes_written <= 1.05 * fetched
    assert used[0] <= 1.05 * fetched


def test_the_whole_limit_is_usable(start: Start, upstream: Upstream) -> None:
    """Half of the limit was for the one copy, half for the other."""
    program = start(store={"limit": "64Mi"})
    blobs = [upstream.blob(noise(4 * _MIB, number)) for number in range(15)]
    for blob in blobs:
        assert read(program.endpoint, blob)[1] == blob
    upstream.rule("", status=500)
    for blob in blobs:
        assert read(program.endpoint, blob)[1] == blob
    assert program.used() <= _LIMIT


def test_the_least_recently_used_blob_goes_first(start: Start, upstream: Upstream) -> None:
    program = start(store={"limit": "64Mi"})
    blobs = [upstream.blob(noise(10 * _MIB, number)) for number in range(7)]
    for blob in (*blobs[:6], blobs[0], blobs[6]):
        assert read(program.endpoint, blob)[1] == blob
    upstream.rule("", status=500)
    kept = [program.ask(path(blob), "HEAD").status == 200 for blob in blobs]
    assert kept == [True, False, True, True, True, True, True]


def fails(program: Program, blob: str) -> None:
    """A body is cut, or its answer is an error if that was known in time."""
    try:
        status, _, _ = read(program.endpoint, blob)
    except (OSError, http.client.HTTPException):
        return
    assert status == 502


def test_a_corrupt_body_is_never_a_whole_one(program: Program, upstream: Upstream) -> None:
    blob = upstream.blob(noise(200_000))
    upstream.rule("GET .*/blobs/", times=1, corrupt=True)
    fails(program, blob)
    wait(lambda: program.ask(path(blob), "HEAD").status == 200, 5, "the right blob", every=0.1)
    assert read(program.endpoint, blob) == (200, blob, 200_000)


def test_a_body_that_breaks_off_is_gone_on_with(program: Program, upstream: Upstream) -> None:
    blob = upstream.blob(noise(200_000))
    upstream.rule("GET .*/blobs/", times=1, cut=150_000)
    assert read(program.endpoint, blob) == (200, blob, 200_000)
    assert upstream.seen("GET .*/blobs/")[-1].headers["range"] == "bytes=150000-"


def test_a_body_that_always_breaks_off_is_cut(program: Program, upstream: Upstream) -> None:
    blob = upstream.blob(noise(200_000))
    upstream.rule("GET .*/blobs/", cut=150_000)
    fails(program, blob)
    upstream.heal()
    wait(lambda: program.ask(path(blob), "HEAD").status == 200, 5, "the whole blob", every=0.1)
    assert read(program.endpoint, blob) == (200, blob, 200_000)
