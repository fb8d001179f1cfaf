# SPDX-License-Identifier: GPL-3.0-or-later
"""What those without a good credential can do: nothing to the upstream, and nothing to those who have one."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.client import Endpoint
from bench.content import MANIFEST
from sandbox.steps import wait
from tests.e2e.registry import INDEX, Answer, ask, authorization

from .conftest import Start
from .program import PASSWORD, USER, Program, hashed
from .upstream import NAME, Upstream

_MIB = 1 << 20


def client_hello() -> bytes:
    """What a client that tries HTTPS first sends."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def received(connection: socket.socket) -> bytes:
    """All that comes until the end. Raises ConnectionResetError."""
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("split", [0, 1, 5, 100])
def test_a_tls_hello_gets_http_400_at_once(program: Program, split: int) -> None:
    """A TLS hello on the plain port met silence, and containerd, which tries HTTPS first for localhost, gave up (at 94011b7)."""
    hello = client_hello()
    with socket.create_connection(("127.0.0.1", program.port), timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        if split:
            connection.sendall(hello[:split])
            time.sleep(0.1)
        connection.sendall(hello[split:])
        answer = received(connection)
        assert time.monotonic() - began < 1.5
    assert answer.startswith(b"HTTP/1.") and b" 400 " in answer.partition(b"\r\n")[0]


def test_the_answer_to_a_tls_hello_outlives_what_the_client_sends_on(program: Program) -> None:
    """A connection that is closed with bytes unread is reset, and the reset overtakes the answer."""
    with socket.create_connection(("127.0.0.1", program.port), timeout=5) as connection:
        connection.sendall(client_hello())
        for _ in range(4):
            connection.sendall(b"\x17" * 2000)
            time.sleep(0.02)
        time.sleep(0.2)  # a reset would be here by now
        assert received(connection).startswith(b"HTTP/1.")


def test_a_tls_client_falls_back_within_a_second(program: Program) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", program.port), timeout=5) as connection, pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(connection, server_hostname="localhost")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("credential", ["wrong", "none"])
def test_a_wrong_credential_among_many_header_fields(program: Program, upstream: Upstream, credential: str) -> None:
    """With about 50 further header fields a wrong password reached the registry, because a flag had no room any more."""
    upstream.image("1.0")
    endpoint = Endpoint(program.port, USER, "another") if credential == "wrong" else program.stranger
    path = f"/v2/{NAME}/manifests/1.0"
    for count in (0, *range(20, 130), 200, 500, 1000, 2000, 5000):
        headers = {f"X-{number}": "1" for number in range(count)}
        try:
            status = ask(endpoint, path, **headers).status
        except (BrokenPipeError, ConnectionResetError):  # it is refused while the client still sends
            assert count >= 2000
            continue
        assert status == 401 or (status == 431 and count > 100), (count, status)
    assert upstream.count("manifests") == 0
    assert program.ask(path, **{f"X-{number}": "1" for number in range(100)}).status == 200


@contextlib.contextmanager
def crowd(port: int, count: int, request: bytes) -> Iterator[list[socket.socket]]:
    """Connections that have each sent the beginning of a request."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            with contextlib.suppress(OSError):
                one.sendall(request)
            connections.append(one)
        yield connections


SLOW = {
    "body": b"POST /v2/p/r/image/blobs/uploads/ HTTP/1.1\r\nHost: cache\r\nContent-Length: 1000000000\r\n\r\nx",
    "chunked body": b"PUT /v2/p/r/image/manifests/1 HTTP/1.1\r\nHost: cache\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx",
    "body of a GET": b"GET /v2/p/r/image/manifests/1 HTTP/1.1\r\nHost: cache\r\nContent-Length: 1000000000\r\n\r\nx",
    "header": b"GET /v2/p/r/image/manifests/1 HTTP/1.1\r\nHost: ca",
}


@pytest.mark.parametrize("what", SLOW)
def test_a_thousand_slow_requests_without_a_credential(program: Program, upstream: Upstream, what: str) -> None:
    """1,000 slow bodies took a thread each and 120 MiB, and the probes timed out."""
    upstream.image("1.0")
    assert program.ask(f"/v2/{NAME}/manifests/1.0").status == 200
    before, slowest = program.resident(), 0.0
    with crowd(program.port, 1000, SLOW[what]) as connections:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            for path in ("/alive", "/ready", f"/v2/{NAME}/manifests/1.0"):
                began = time.monotonic()
                assert program.ask(path).status == 200
                slowest = max(slowest, time.monotonic() - began)
            for one in connections[::50]:
                with contextlib.suppress(OSError):  # it was refused
                    one.sendall(b"x")
            time.sleep(0.1)
        grown, threads = program.resident() - before, program.threads()
        if what != "header":
            assert connections[-1].recv(100).partition(b"\r\n")[0].split()[1] in (b"405", b"400")
    assert slowest < 1
    assert grown < 40 * _MIB
    assert threads < 50
    assert upstream.count("manifests/1$") == 0


def pull_tag(endpoint: Endpoint) -> Answer:
    return ask(endpoint, f"/v2/{NAME}/manifests/1.0")


def test_users_who_come_for_the_first_time_together(start: Start, upstream: Upstream) -> None:
    """Of 12 users whom a new replica had not seen, 10 got 429."""
    program = start()
    upstream.image("1.0")
    users = [f"team-{number}" for number in range(12)]
    program.htpasswd.write_text("".join(hashed(user, cost=10) for user in users))
    program.stop()
    program.start()
    with ThreadPoolExecutor(len(users)) as executor:
        answers = list(executor.map(lambda user: pull_tag(Endpoint(program.port, user, PASSWORD)), users))
    assert [answer.status for answer in answers] == [200] * 12


def test_users_who_come_for_the_first_time_during_guesses(start: Start, upstream: Upstream) -> None:
    """Guesses of others used up what the first contact of a user needs."""
    program = start()
    upstream.image("1.0")
    users = [f"team-{number}" for number in range(6)]
    program.htpasswd.write_text("".join(hashed(user, cost=10) for user in users))
    program.stop()
    program.start()

    def guess(number: int) -> int:
        return pull_tag(Endpoint(program.port, f"nobody-{number % 50}", f"guess-{number}")).status

    with ThreadPoolExecutor(16) as guessers, ThreadPoolExecutor(len(users)) as executor:
        guesses = [guessers.submit(guess, number) for number in range(300)]
        time.sleep(0.3)
        answers = list(executor.map(lambda user: pull_tag(Endpoint(program.port, user, PASSWORD)), users))
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


def test_many_values_of_accept_evict_no_credential(start: Start, upstream: Upstream) -> None:
    """2,000 distinct Accept values evicted every remembered credential, and each made a copy of the tag upstream."""
    program = start(tags={"ttl": "10m"})
    upstream.image("1.0")
    # A check takes long enough to be seen.
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
