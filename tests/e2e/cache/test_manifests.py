# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests, tags and lists are what the upstream answers, whatever their type and the client's Accept."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.content import MANIFEST
from tests.e2e.registry import INDEX, ask

from .conftest import Start
from .program import HOST, Program
from .upstream import NAME, Upstream, digest, noise


def path(reference: str, name: str = NAME) -> str:
    return f"/v2/{name}/manifests/{reference}"


def test_a_repository_that_fails_leaves_the_others_fresh(start: Start, upstream: Upstream) -> None:
    program = start(tags={"ttl": "100ms"})
    upstream.image("1.0", layer=b"bad", name="p/r/bad")
    upstream.image("1.0", layer=b"good")
    for name in ("p/r/bad", NAME):
        assert program.ask(path("1.0", name)).status == 200
    new, _ = upstream.image("1.0", layer=b"new")
    upstream.rule("/v2/p/r/bad/", status=503)
    time.sleep(0.2)
    assert "warning" in program.ask(path("1.0", "p/r/bad")).headers
    good = program.ask(path("1.0"))
    assert good.headers["docker-content-digest"] == new and "warning" not in good.headers


def test_an_upstream_that_judges_by_accept(program: Program, upstream: Upstream) -> None:
    """Where the upstream has two answers for a tag, each client gets the one for its Accept."""
    upstream.image("1.0")
    upstream.strict = True
    assert program.ask(path("1.0"), Accept=f"{MANIFEST}, {INDEX}").status == 200
    assert program.ask(path("1.0"), Accept=INDEX).status == 404
    assert program.ask(path("1.0"), Accept=MANIFEST).status == 200


def test_a_manifest_without_a_type_says_its_own(program: Program, upstream: Upstream) -> None:
    """Its Content-Type was guessed from the bytes: text/plain, which no client takes for a manifest."""
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": {}, "layers": []}).encode()
    known = upstream.manifest(body, "1.0", media_type="")
    for reference in ("1.0", known, "1.0"):
        answer = program.ask(f"/v2/{NAME}/manifests/{reference}")
        assert (answer.status, answer.headers["content-type"], digest(answer.body)) == (200, MANIFEST, known)


def test_two_upstreams_share_nothing(start: Start, upstream: Upstream) -> None:
    """The same name and digest at two registries are two things."""
    program = start(
        upstreams=[{"host": HOST, "url": upstream.url}, {"host": "other.example", "url": upstream.url.replace("127.0.0.1", "localhost")}]
    )
    _, layer = upstream.image("1.0")
    for query in ("", "?ns=other.example", f"?ns={HOST}", "?ns=other.example"):
        assert program.ask(f"/v2/{NAME}/blobs/{layer}{query}").status == 200
        assert program.ask(path("1.0") + query).status == 200
    hosts = [seen.headers["host"].partition(":")[0] for seen in upstream.seen(f"GET .*/blobs/{layer}")]
    assert sorted(hosts) == ["127.0.0.1", "localhost"]


@pytest.mark.parametrize("what", ["manifests/1.0", "manifests/DIGEST", "blobs/LAYER"])
def test_an_error_is_shared_for_two_seconds_and_no_longer(program: Program, upstream: Upstream, what: str) -> None:
    """The age of an error was not counted, so that one which was passed on lived longer."""
    manifest, layer = upstream.image("1.0")
    what = what.replace("DIGEST", manifest).replace("LAYER", layer)
    upstream.rule("/v2/p/", status=404)
    assert program.ask(f"/v2/{NAME}/{what}").status == 404
    came, shared = time.monotonic(), 0
    upstream.heal()
    while True:
        sent = time.monotonic() - came
        if program.ask(f"/v2/{NAME}/{what}").status == 200:
            break
        assert sent < 2.05
        shared += 1
        time.sleep(0.1)
    assert time.monotonic() - came > 1.5
    assert shared > 3 and upstream.count(what) <= 4


def test_many_clients_of_a_tag_share_a_check(start: Start, upstream: Upstream) -> None:
    program = start(tags={"ttl": "1m"})
    upstream.image("1.0", layer=noise(100))
    upstream.rule("/manifests/", delay=0.5)
    with ThreadPoolExecutor(40) as executor:
        answers = list(executor.map(lambda _: ask(program.endpoint, path("1.0")), range(40)))
    assert {answer.status for answer in answers} == {200}
    assert upstream.count("/manifests/") <= 2
