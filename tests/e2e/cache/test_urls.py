# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths and queries of requests: empty segments, escapes, and `ns`, which names the registry."""

from __future__ import annotations

import pytest

from .program import HOST, Program
from .upstream import NAME, Upstream, digest


@pytest.mark.parametrize(
    "wrong",
    [
        f"/v2//{NAME}/manifests/1.0",
        "/v2/p//r/manifests/1.0",
        f"/v2/{NAME}//manifests/1.0",
        f"/v2/{NAME}/manifests//1.0",
        f"//v2/{NAME}/manifests/1.0",
    ],
)
def test_an_empty_path_segment_is_a_client_error(program: Program, upstream: Upstream, wrong: str) -> None:
    """// in a path once caused 502."""
    upstream.image("1.0")
    answer = program.ask(wrong)
    assert answer.status in (400, 404) and answer.error
    assert upstream.count() == 0


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
def test_an_escaped_digest_is_the_same_digest(program: Program, upstream: Upstream, kind: str) -> None:
    """sha256%3A… was once fetched again."""
    manifest, layer = upstream.image()
    known = manifest if kind == "manifests" else layer
    for spelling in (known, known.replace(":", "%3A"), known.replace(":", "%3a"), known.replace("s", "%73", 1)):
        answer = program.ask(f"/v2/{NAME}/{kind}/{spelling}")
        assert answer.status == 200 and digest(answer.body) == known
    assert upstream.count(f"GET .*/{kind}/") == 1


@pytest.mark.parametrize(
    "query", ["ns=other.example", "ns=", f"ns={HOST}&ns=other.example", f"ns={HOST}:443", "%6es=other.example", "ns=%zz"]
)
def test_a_request_for_another_registry_is_refused(program: Program, upstream: Upstream, query: str) -> None:
    """A request for another registry once got this upstream's content."""
    manifest, layer = upstream.image("1.0")
    for what in ("manifests/1.0", f"manifests/{manifest}", f"blobs/{layer}", "tags/list"):
        answer = program.ask(f"/v2/{NAME}/{what}?{query}")
        assert answer.status in (400, 404) and answer.error
    assert upstream.count() == 0
    for right in (HOST, HOST.upper()):
        assert program.ask(f"/v2/{NAME}/manifests/1.0" + f"?ns={right}").headers["docker-content-digest"] == manifest
