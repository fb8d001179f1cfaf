# SPDX-License-Identifier: GPL-3.0-or-later
"""What those without a good credential can do: nothing to the upstream, and nothing to those who have one."""

from __future__ import annotations

import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.endpoint import Endpoint
from sandbox.steps import wait
from tests.e2e.registry import Answer, ask, authorization

from .conftest import Start
from .program import PASSWORD, USER, Program, hashed
from .upstream import NAME, Upstream

_MIB = 1 << 20


def test_a_tls_client_falls_back_within_a_second(program: Program) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", program.port), timeout=5) as connection, pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(connection, server_hostname="localhost")
    assert time.monotonic() - began < 1


def pull_tag(endpoint: Endpoint) -> Answer:
    return ask(endpoint, f"/v2/{NAME}/manifests/1.0")


def test_users_who_come_for_the_first_time_during_guesses(start: Start, upstream: Upstream) -> None:
    """Guesses of others used up what the first contact of a user needs."""
    program = start()
    upstream.image("1.0")
    users = program.newcomers(6)

    def guess(number: int) -> int:
        return pull_tag(Endpoint(program.port, f"nobody-{number % 50}", f"guess-{number}")).status

    with ThreadPoolExecutor(16) as guessers, ThreadPoolExecutor(len(users)) as executor:
        guesses = [guessers.submit(guess, number) for number in range(300)]
        time.sleep(0.3)
        answers = list(executor.map(pull_tag, users))
        assert [answer.status for answer in answers] == [200] * 6
        assert {one.result() for one in guesses} <= {401, 429}


def test_guesses_are_throttled(program: Program, upstream: Upstream) -> None:
    """Whoever guesses gets some answers, then 429; users who are known notice nothing."""
    upstream.image("1.0")
    assert pull_tag(program.endpoint).status == 200

    def guess(number: int) -> Answer | None:
        try:
            return pull_tag(Endpoint(program.port, f"nobody-{number}", "guess", timeout=3))
        except TimeoutError:  # its turn comes later
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


@pytest.mark.parametrize("auth", ["htpasswd", "none"])
def test_no_credential_of_a_client_reaches_the_upstream(start: Start, upstream: Upstream, auth: str) -> None:
    """Without users too: whoever sends a credential where none is asked for has another registry in mind."""
    program = start(**({"auth": "none"} if auth == "none" else {}))
    _, layer = upstream.image("1.0")
    upstream.lists[f"/v2/{NAME}/tags/list"] = {"name": NAME, "tags": ["1.0"]}
    for what in ("manifests/1.0", f"blobs/{layer}", "tags/list"):
        statuses = [ask(endpoint, f"/v2/{NAME}/{what}").status for endpoint in (program.endpoint, program.stranger)]
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
