# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of a blob, when it is stored and while it is fetched."""

from __future__ import annotations

import email
import email.policy
import http.client
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.registry import authorization

from .blobs import path
from .conftest import Start
from .program import Program
from .upstream import Upstream, digest, noise

_MIB = 1 << 20


@pytest.mark.parametrize("first", [1, _MIB - 1, _MIB + 5, 2 * _MIB - 1])
def test_a_pull_is_resumed(program: Program, large: bytes, first: int) -> None:
    answer = program.ask(path(digest(large)), Range=f"bytes={first}-")
    assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {first}-{len(large) - 1}/{len(large)}")
    assert answer.body == large[first:]


def parts(answer: http.client.HTTPResponse, body: bytes) -> list[tuple[str, bytes]]:
    """Returns the ranges and bytes of a multipart/byteranges answer."""
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    assert message.get_content_type() == "multipart/byteranges"
    return [(str(part["Content-Range"]), part.get_payload(decode=True)) for part in message.iter_parts()]  # type: ignore[union-attr, misc]


@pytest.mark.parametrize("ranges", ["0-9,20-29", "0-9, 1999990-1999999", "100-199,-10", " 0-9 , , 20-29"])
def test_several_ranges(program: Program, large: bytes, ranges: str) -> None:
    """Several ranges in one request, which podman and stargz send, once caused 416."""
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
    """A malformed Range once caused 416, which fails a pull. HTTP requires servers to ignore it."""
    answer = program.ask(path(digest(large)), Range=header)
    assert (answer.status, answer.body == large) == (200, True)


@pytest.mark.parametrize("size", [60, 65])
def test_ranges_of_a_blob_as_large_as_the_store_share_a_fetch(start: Start, upstream: Upstream, size: int) -> None:
    """30 ranges of a blob larger than 9/10 of the limit once caused 30 complete fetches."""
    program = start(store={"limit": "64Mi"})
    content = noise(size * _MIB)
    blob = upstream.blob(content)
    fetch = upstream.rule("GET .*/blobs/", hold=0)
    with ThreadPoolExecutor(30) as executor:
        spans = [(number * 2 * _MIB, number * 2 * _MIB + 99_999) for number in range(30)]
        pulls = [executor.submit(program.ask, path(blob), Range=f"bytes={first}-{last}") for first, last in spans]
        assert fetch.began.wait(10)
        time.sleep(1)  # until all have sent their requests
        fetch.release()
        for (first, last), pull in zip(spans, pulls, strict=True):
            answer = pull.result()
            assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {first}-{last}/{len(content)}")
            assert answer.body == content[first : last + 1]
    assert upstream.count("GET .*/blobs/") == 1
