# SPDX-License-Identifier: GPL-3.0-or-later
"""Blobs: one fetch for all who ask, within an exact limit, whatever the readers and the upstream do."""

from __future__ import annotations

import dataclasses
import http.client

import pytest

from sandbox.steps import wait
from tests.e2e.registry import ask

from .blobs import path, read
from .conftest import Start
from .program import HOST, Program
from .upstream import NAME, Upstream, digest, noise

_MIB = 1 << 20
_LIMIT = 64 * _MIB


@pytest.mark.parametrize("first", [1, _MIB - 1, _MIB + 5, 2 * _MIB - 1])
def test_a_pull_is_resumed(program: Program, large: bytes, first: int) -> None:
    answer = program.ask(path(digest(large)), Range=f"bytes={first}-")
    assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {first}-{len(large) - 1}/{len(large)}")
    assert answer.body == large[first:]


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


def test_the_least_recently_used_blob_goes_first(start: Start, upstream: Upstream) -> None:
    program = start(store={"limit": "64Mi"})
    blobs = [upstream.blob(noise(10 * _MIB, number)) for number in range(7)]
    for blob in (*blobs[:6], blobs[0], blobs[6]):
        assert read(program.endpoint, blob)[1] == blob
    upstream.rule("", status=500)
    kept = [program.ask(path(blob), "HEAD").status == 200 for blob in blobs]
    assert kept == [True, False, True, True, True, True, True]


def whole(program: Program, blob: str) -> str:
    """The digest of the body; empty if it is cut, or its answer is an error since that was known in time."""
    try:
        status, digest, _ = read(program.endpoint, blob)
    except (OSError, http.client.HTTPException):
        return ""
    assert status in (200, 502)
    return digest if status == 200 else ""


def test_a_corrupt_body_is_never_a_whole_one(program: Program, upstream: Upstream) -> None:
    blob = upstream.blob(noise(200_000))
    upstream.rule("GET .*/blobs/", times=1, corrupt=True)
    assert whole(program, blob) in ("", blob)  # it is right where the blob was fetched again before the answer began
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
    assert not whole(program, blob)
    upstream.heal()
    wait(lambda: program.ask(path(blob), "HEAD").status == 200, 5, "the whole blob", every=0.1)
    assert read(program.endpoint, blob) == (200, blob, 200_000)
