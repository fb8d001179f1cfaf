# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients without a valid credential affect neither the upstream nor the cache's users."""

from __future__ import annotations

import http.client
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.content import MANIFEST
from bench.endpoint import Endpoint
from sandbox.steps import wait
from tests.e2e.registry import INDEX, Answer, ask, authorization

from .conftest import Start
from .program import PASSWORD, USER, Program, hashed
from .upstream import NAME, Upstream


def pull_tag(endpoint: Endpoint, **headers: str) -> Answer:
    return ask(endpoint, f"/v2/{NAME}/manifests/1.0", **headers)


@pytest.mark.parametrize("credential", ["wrong", "none"])
def test_a_wrong_credential_among_many_header_fields(start: Start, upstream: Upstream, credential: str) -> None:
    """With about 50 more header fields, a wrong password once reached the registry, because a flag was dropped."""
    program = start()
    upstream.image("1.0")
    program.htpasswd.write_text(hashed(cost=13))  # makes a check long enough to measure
    program.stop()
    program.start()
    began = time.monotonic()
    assert pull_tag(program.endpoint).status == 200
    checked, asked = time.monotonic() - began, upstream.count()

    endpoint = Endpoint(program.port, USER, "another") if credential == "wrong" else program.anonymous
    for count in (0, *range(20, 130), 200, 500, 1000, 2000, 5000):
        headers = {f"X-{number}": "1" for number in range(count)}
        try:
            status = pull_tag(endpoint, **headers).status
        except (BrokenPipeError, ConnectionResetError):  # refused while the client is still sending
            assert count >= 2000
            continue
        assert status == 401 or (status == 431 and count > 100), (count, status)
    assert upstream.count() == asked

    # Users are not affected: their credential is still remembered, and tags are still updated.
    moved, _ = upstream.image("1.0", layer=b"moved")
    time.sleep(1.1)  # tags are checked at the upstream at most once a second
    for count in (0, 50, 100):
        began = time.monotonic()
        answer = pull_tag(program.endpoint, **{f"X-{number}": "1" for number in range(count)})
        assert time.monotonic() - began < checked / 4
        assert (answer.status, answer.headers["docker-content-digest"]) == (200, moved)


def test_new_users_at_the_same_time(start: Start, upstream: Upstream) -> None:
    """When 12 users came to a new replica at the same time, 10 of them once got 429."""
    program = start()
    upstream.image("1.0")
    users = program.new_users(12)
    with ThreadPoolExecutor(len(users)) as executor:
        answers = list(executor.map(pull_tag, users))
    assert [answer.status for answer in answers] == [200] * 12


def test_new_users_during_guesses(start: Start, upstream: Upstream) -> None:
    """Guesses of others once used up the checks that new users need."""
    program = start()
    upstream.image("1.0")
    users = program.new_users(6)

    def guess(number: int) -> int:
        return pull_tag(Endpoint(program.port, f"nobody-{number % 50}", f"guess-{number}")).status

    with ThreadPoolExecutor(16) as guessers, ThreadPoolExecutor(len(users)) as executor:
        guesses = [guessers.submit(guess, number) for number in range(300)]
        time.sleep(0.3)
        answers = list(executor.map(pull_tag, users))
        assert [answer.status for answer in answers] == [200] * 6
        assert {one.result() for one in guesses} <= {401, 429}


def test_guesses_are_throttled(program: Program, upstream: Upstream) -> None:
    """A client that guesses soon gets 429. Known users are not affected."""
    upstream.image("1.0")
    assert pull_tag(program.endpoint).status == 200

    def guess(number: int) -> Answer | None:
        try:
            return pull_tag(Endpoint(program.port, f"nobody-{number}", "guess", timeout=3))
        except TimeoutError:  # still waits for its check
            return None

    with ThreadPoolExecutor(30) as executor:
        guesses = [executor.submit(guess, number) for number in range(90)]
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert pull_tag(program.endpoint).status == 200
            slowest = max(slowest, time.monotonic() - began)
        answers = [answer for one in guesses if (answer := one.result())]
    throttled = [answer for answer in answers if answer.status == 429]
    assert sum(answer.status == 401 for answer in answers) <= 25
    assert len(throttled) >= 40 and all(int(answer.headers["retry-after"]) > 0 for answer in throttled)
    assert upstream.count("manifests/1.0") <= 20
    assert slowest < 1


def test_many_values_of_accept_evict_no_credential(start: Start, upstream: Upstream) -> None:
    """2,000 different Accept values once evicted all remembered credentials, and each caused an upstream request for the tag."""
    program = start(tags={"ttl": "10m"})
    upstream.image("1.0")
    # Makes a check long enough to measure.
    program.htpasswd.write_text(hashed(cost=13) + hashed("other", cost=13))
    program.stop()
    program.start()
    other = Endpoint(program.port, "other", PASSWORD)
    began = time.monotonic()
    assert pull_tag(program.endpoint).status == 200
    checked = time.monotonic() - began
    assert pull_tag(other).status == 200
    before = upstream.count()
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=10)
    for number in range(2000):
        types = (f"{MANIFEST}, {INDEX}, text/x-{number}", f"text/x-{number}, */*;q=0.{number}", f"{INDEX};x={number}")
        headers = {**authorization(program.endpoint), "Accept": types[number % 3]}
        connection.request("GET", f"/v2/{NAME}/manifests/1.0", headers=headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 404)
    connection.close()
    assert upstream.count() - before <= 4
    for endpoint in (other, program.endpoint):
        began = time.monotonic()
        assert pull_tag(endpoint).status == 200
        assert time.monotonic() - began < checked / 4


@pytest.mark.parametrize("auth", ["htpasswd", "none"])
def test_no_credential_of_a_client_reaches_the_upstream(start: Start, upstream: Upstream, auth: str) -> None:
    """Also without users: a client that sends a credential unasked has it for another registry."""
    program = start(**({"auth": "none"} if auth == "none" else {}))
    _, layer = upstream.image("1.0")
    upstream.lists[f"/v2/{NAME}/tags/list"] = {"name": NAME, "tags": ["1.0"]}
    for what in ("manifests/1.0", f"blobs/{layer}", "tags/list"):
        statuses = [ask(endpoint, f"/v2/{NAME}/{what}").status for endpoint in (program.endpoint, program.anonymous)]
        assert statuses == [200, 401 if auth == "htpasswd" else 200]
        assert upstream.count(f"/{what}")
    assert not [seen for seen in upstream.seen() if "authorization" in seen.headers]


def test_a_revoked_user_is_refused(program: Program, upstream: Upstream) -> None:
    upstream.image("1.0")
    assert pull_tag(program.endpoint).status == 200
    program.htpasswd.write_text(hashed("other"))
    wait(lambda: pull_tag(program.endpoint).status == 401, 3, "a refusal", every=0.2)
    assert pull_tag(Endpoint(program.port, "other", PASSWORD)).status == 200


def test_no_credential_is_in_log_or_metrics(start: Start, upstream: Upstream) -> None:
    program = start(log={"level": "debug", "access": "all"})
    upstream.image("1.0")
    wrong = Endpoint(program.port, USER, "a-wrong-password")
    assert pull_tag(program.endpoint).status == 200 and pull_tag(wrong).status == 401
    shown = program.output() + ask(Endpoint(program.metrics), "/metrics").body.decode()
    assert f"/v2/{NAME}/manifests/1.0" in shown and "registry_cache_requests_total" in shown
    for endpoint in (program.endpoint, wrong):
        assert endpoint.password not in shown and authorization(endpoint)["Authorization"].split()[1] not in shown
