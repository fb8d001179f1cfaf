# SPDX-License-Identifier: GPL-3.0-or-later
"""The upstream of the bench refuses what a real one would refuse, and counts what it sends."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import time

import pytest

from bench.content import Image
from bench.paced_upstream.server import Server
from bench.paced_upstream.state import USER, Fault, Settings, State


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer, answer.read()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def path(image: Image) -> str:
    return f"/v2/{image.name}/blobs/{image.layers[0].digest}"


def token(server: Server, image: Image, secret: str) -> tuple[int, str]:
    basic = base64.b64encode(f"{USER}:{secret}".encode()).decode()
    scope = f"/token?service=upstream.bench&scope=repository:{image.name}:pull"
    answer, body = ask(server, scope, Authorization=f"Basic {basic}")
    return answer.status, json.loads(body).get("token", "")


def test_a_blob_needs_a_token_and_a_signed_url(server: Server, state: State, image: Image, path: str) -> None:
    refused, _ = ask(server, path)
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"].startswith('Bearer realm="http://127.0.0.1:')
    assert f'scope="repository:{image.name}:pull"' in refused.headers["WWW-Authenticate"]
    status, good = token(server, image, state.secret)
    assert status == 200
    redirect, _ = ask(server, path, **bearer(good))
    assert redirect.status == 307
    answer, body = ask(server, redirect.headers["Location"])
    assert answer.status == 200
    assert hashlib.sha256(body).hexdigest() == image.layers[0].digest.removeprefix("sha256:")
    assert state.counts[f"GET content {image.layers[0].digest}"] == 1
    assert state.bytes == image.layers[0].size


def test_a_range_of_a_blob(server: Server, state: State, image: Image) -> None:
    blob = image.layers[1]
    answer, body = ask(server, state.signed_url(blob.digest), Range="bytes=99990-")
    assert answer.status == 206
    assert answer.headers["Content-Range"] == "bytes 99990-99999/100000"
    assert body == state.library.blob(blob.digest).read_bytes()[-10:]


def test_a_head_returns_the_size(server: Server, state: State, image: Image, path: str) -> None:
    answer, _ = ask(server, path, "HEAD", **bearer(state.token(f"repository:{image.name}:pull")))
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(image.layers[0].size))


def test_a_wrong_secret_gets_no_token(server: Server, image: Image) -> None:
    assert token(server, image, "wrong") == (401, "")


@pytest.mark.parametrize("what", ["another's", "expired", "of another repository", "no text at all"])
def test_a_bad_token_is_refused(server: Server, state: State, image: Image, path: str, what: str) -> None:
    scope = f"repository:{image.name}:pull"
    bad = {
        "another's": State(state.library, state.secret, Settings()).token(scope),
        "expired": state.token(scope, seconds=-1),
        "of another repository": state.token("repository:bench/other:pull"),
        "no text at all": "////",
    }[what]
    assert ask(server, path, **bearer(bad))[0].status == 401
    assert ask(server, path, **bearer(state.token(scope)))[0].status == 307


@pytest.mark.parametrize("what", ["expired", "of another blob", "later than signed", "unsigned"])
def test_a_bad_url_is_refused(server: Server, state: State, image: Image, what: str) -> None:
    digest, other = image.layers[0].digest, image.layers[1].digest
    good = state.signed_url(digest)
    bad = {
        "expired": state.signed_url(digest, seconds=-1),
        "of another blob": state.signed_url(other).replace(other, digest),
        "later than signed": good.replace("expires=", "expires=9"),
        "unsigned": good.partition("?")[0],
    }[what]
    assert ask(server, bad)[0].status == 403
    assert ask(server, good)[0].status == 200


def test_every_nth_answer_is_corrupt_up_to_a_limit(server: Server, state: State, image: Image) -> None:
    digest = image.layers[1].digest
    state.settings = Settings(faults={digest: Fault("corrupt", every=2, times=2)})
    right = [hashlib.sha256(ask(server, state.signed_url(digest))[1]).hexdigest() in digest for _ in range(6)]
    assert right == [True, False, True, False, True, True]


def test_a_cut_closes_the_connection_in_the_middle(server: Server, state: State, image: Image) -> None:
    blob = image.layers[1]
    state.settings = Settings(faults={blob.digest: Fault("cut")})
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(server, state.signed_url(blob.digest))
    assert len(caught.value.partial) == blob.size // 2


def test_an_error_takes_a_second(server: Server, state: State, image: Image, path: str) -> None:
    state.settings = Settings(faults={image.layers[0].digest: Fault("error")})
    started = time.monotonic()
    assert ask(server, path, **bearer(state.token(f"repository:{image.name}:pull")))[0].status == 500
    assert time.monotonic() - started >= 1


def test_a_connection_has_its_rate(server: Server, state: State, image: Image) -> None:
    state.settings = Settings(latency=0.05, rate=400_000)
    started = time.monotonic()
    ask(server, state.signed_url(image.layers[1].digest))
    assert 0.3 <= time.monotonic() - started < 2
