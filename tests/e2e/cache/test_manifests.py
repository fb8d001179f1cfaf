# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests, tags and lists are the upstream's, with any media type and any Accept."""

from __future__ import annotations

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.content import MANIFEST
from sandbox.steps import wait
from tests.e2e.registry import INDEX, ask

from .conftest import Start
from .program import HOST, Program
from .upstream import NAME, Upstream, digest, noise


def path(reference: str, name: str = NAME) -> str:
    return f"/v2/{name}/manifests/{reference}"


def test_a_slow_tag_leaves_the_others_fresh(start: Start, upstream: Upstream) -> None:
    """One slow tag once made all other tags of the upstream stale."""
    program = start(tags={"ttl": "100ms"}, outage={"challenge_timeout": "500ms"})
    old, _ = upstream.image("slow", "other", layer=b"old")
    for tag in ("slow", "other"):
        assert program.ask(path(tag)).headers["docker-content-digest"] == old
    time.sleep(0.2)
    new, _ = upstream.image("slow", "other", layer=b"new")
    upstream.rule("/manifests/slow$", delay=10)
    slow = program.ask(path("slow"))
    assert slow.headers["docker-content-digest"] == old and "110" in slow.headers["warning"]
    for _ in range(5):
        began = time.monotonic()
        other = program.ask(path("other"))
        assert other.headers["docker-content-digest"] == new and "warning" not in other.headers
        assert time.monotonic() - began < 0.4
        time.sleep(0.15)


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


def test_an_upstream_whose_answer_depends_on_accept(program: Program, upstream: Upstream) -> None:
    """If the upstream's answer depends on Accept, each client gets the one for its own."""
    upstream.image("1.0")
    upstream.strict = True
    assert program.ask(path("1.0"), Accept=f"{MANIFEST}, {INDEX}").status == 200
    assert program.ask(path("1.0"), Accept=INDEX).status == 404
    assert program.ask(path("1.0"), Accept=MANIFEST).status == 200


@pytest.mark.parametrize("accept", ["*/*", "", "application/json", "application/vnd.oci.image.*", f"{INDEX};q=1, */*;q=0.1"])
@pytest.mark.parametrize("by", ["tag", "digest"])
def test_an_accept_that_does_not_name_the_type(program: Program, upstream: Upstream, accept: str, by: str) -> None:
    """An OCI manifest was once 404 for an Accept without its type, although the upstream answers 200."""
    known, _ = upstream.image("1.0")
    for method in ("GET", "HEAD", "GET"):  # the last one is served from the cache
        answer = program.ask(path("1.0" if by == "tag" else known), method, Accept=accept)
        assert (answer.status, answer.headers["content-type"]) == (200, MANIFEST)
        assert answer.headers["docker-content-digest"] == known
    assert digest(answer.body) == known


def schema1() -> tuple[bytes, str]:
    """Returns a signed manifest of schema 1 and its digest, which does not include the signature."""
    signed = json.dumps({"schemaVersion": 1, "name": NAME, "tag": "1", "architecture": "amd64", "fsLayers": [], "history": []}, indent=3)
    head, tail = signed[:-2], signed[-2:]

    def encoded(text: str) -> str:
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    protected = encoded(json.dumps({"formatLength": len(head), "formatTail": encoded(tail), "time": "2015-01-01T00:00:00Z"}))
    signature = {"header": {"alg": "ES256"}, "signature": "c2lnbmF0dXJl", "protected": protected}
    return f'{head},\n   "signatures": [{json.dumps(signature)}]\n}}'.encode(), digest(signed.encode())


_SUBJECT = {"mediaType": MANIFEST, "digest": "sha256:" + "a" * 64, "size": 7}


ODD = {
    "schema 1": ("application/vnd.docker.distribution.manifest.v1+prettyjws", *schema1()),
    "artifact manifest": (
        "application/vnd.oci.artifact.manifest.v1+json",
        json.dumps(
            {"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "artifactType": "x/y", "blobs": [], "subject": _SUBJECT}
        ).encode(),
        "",
    ),
    "odd media type": ("application/vnd.example.thing.v7+json", b'{"thing": 7}', ""),
    "no JSON at all": ("text/plain", b"not { json", ""),
    "unknown field types": (MANIFEST, json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": "none", "config": 3}).encode(), ""),
}


@pytest.mark.parametrize("accept", ["named", "*/*"])
@pytest.mark.parametrize("by", ["tag", "digest"])
@pytest.mark.parametrize("kind", ODD)
def test_a_manifest_that_distribution_cannot_parse(program: Program, upstream: Upstream, kind: str, by: str, accept: str) -> None:
    """Manifests that distribution cannot parse once caused 500."""
    media_type, body, known_as = ODD[kind]
    known = upstream.manifest(body, "odd", media_type=media_type, known_as=known_as)
    reference = "odd" if by == "tag" else known
    for method in ("GET", "HEAD", "GET"):
        answer = program.ask(path(reference), method, Accept=media_type if accept == "named" else accept)
        assert (answer.status, answer.headers["content-type"]) == (200, media_type), answer
        assert (answer.headers["docker-content-digest"], answer.headers["content-length"]) == (known, str(len(body)))
    assert answer.body == body


def test_a_manifest_without_a_content_type_gets_its_media_type(program: Program, upstream: Upstream) -> None:
    """The Content-Type was once guessed from the bytes, as text/plain, which clients reject for a manifest."""
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": {}, "layers": []}).encode()
    known = upstream.manifest(body, "1.0", media_type="")
    for reference in ("1.0", known, "1.0"):
        answer = program.ask(f"/v2/{NAME}/manifests/{reference}")
        assert (answer.status, answer.headers["content-type"], digest(answer.body)) == (200, MANIFEST, known)


def test_two_upstreams_share_nothing(start: Start, upstream: Upstream) -> None:
    """The same name and digest at two registries are different content."""
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
    """The age of an error was once not passed on, so clients of other replicas got it for longer."""
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


def test_a_manifest_that_takes_longer_than_clients_wait(start: Start, upstream: Upstream) -> None:
    """An upstream that needs 6 s for a manifest, when clients wait 5 s, once caused 504 for ever: each attempt was cancelled."""
    program = start(outage={"manifest_timeout": "1s"})
    by_tag, _ = upstream.image("1.0", layer=b"one")
    by_digest, _ = upstream.image(layer=b"two")
    upstream.rule("/manifests/", delay=1.5)
    with ThreadPoolExecutor(2) as executor:
        first = list(executor.map(lambda reference: program.ask(path(reference)), ("1.0", by_digest)))
    for answer in first:
        assert (answer.status, answer.error) == (504, "UNAVAILABLE") and int(answer.headers["retry-after"]) > 0
    for reference, known in (("1.0", by_tag), (by_digest, by_digest)):
        wait(lambda reference=reference: program.ask(path(reference)).status == 200, 12, "the manifest", every=0.2)
        assert digest(program.ask(path(reference)).body) == known
        assert upstream.count(f"GET .*/manifests/({reference}|{known})$") == 1


def test_the_query_of_a_list_of_tags_reaches_the_upstream(program: Program, upstream: Upstream) -> None:
    """tags/list?last= without n once ignored last."""
    upstream.lists[f"/v2/{NAME}/tags/list"] = {"name": NAME, "tags": ["b"]}
    for query in ("last=a", "n=2&last=a", "n=0", ""):
        answer = program.ask(f"/v2/{NAME}/tags/list?{query}")
        assert json.loads(answer.body)["tags"] == ["b"]
        asked = upstream.seen("GET .*/tags/list")[-1].path.partition("?")[2]
        # Some upstreams, such as distribution, ignore last without n.
        assert set(query.split("&")) <= {*asked.split("&"), ""} and ("n=" in asked or not query)
