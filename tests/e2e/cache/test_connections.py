# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections that are not ordinary requests: TLS on the plain port, and clients that send slowly."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator

import pytest

from tests.e2e.registry import ask

from .program import Program
from .upstream import NAME, Upstream

_MIB = 1 << 20


def test_a_tls_client_falls_back_within_a_second(program: Program) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", program.port), timeout=5) as connection, pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(connection, server_hostname="localhost")
    assert time.monotonic() - began < 1


def client_hello() -> bytes:
    """Returns the first bytes of a client that tries HTTPS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def received(connection: socket.socket) -> bytes:
    """Returns all bytes until the connection is closed. Raises ConnectionResetError."""
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("split", [0, 1, 5, 100])
def test_a_tls_hello_gets_http_400_at_once(program: Program, split: int) -> None:
    """A TLS hello on the plain port once got no answer, and containerd, which tries HTTPS first for localhost, gave up."""
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


def test_the_answer_to_a_tls_hello_arrives_while_the_client_keeps_sending(program: Program) -> None:
    """Closing a connection with unread bytes resets it, and the client may see the reset before the answer."""
    with socket.create_connection(("127.0.0.1", program.port), timeout=5) as connection:
        connection.sendall(client_hello())
        for _ in range(4):
            connection.sendall(b"\x17" * 2000)
            time.sleep(0.02)
        time.sleep(0.2)  # by now a reset would have arrived
        assert received(connection).startswith(b"HTTP/1.")


@contextlib.contextmanager
def crowd(port: int, count: int, request: bytes) -> Iterator[list[socket.socket]]:
    """Open connections that have each sent the beginning of a request."""
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
    """1,000 slow bodies once used a thread each and 120 MiB, and the probes timed out."""
    upstream.image("1.0")
    assert program.ask(f"/v2/{NAME}/manifests/1.0").status == 200
    before, slowest = program.resident(), 0.0
    # The kubelet's probes have no credential.
    others = ((program.anonymous, "/alive"), (program.anonymous, "/ready"), (program.endpoint, f"/v2/{NAME}/manifests/1.0"))
    with crowd(program.port, 1000, SLOW[what]) as connections:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            for endpoint, asked in others:
                began = time.monotonic()
                assert ask(endpoint, asked).status == 200
                slowest = max(slowest, time.monotonic() - began)
            for one in connections[::50]:
                with contextlib.suppress(OSError):  # refused by the cache
                    one.sendall(b"x")
            time.sleep(0.1)
        grown, threads = program.resident() - before, program.threads()
        if what != "header":
            assert connections[-1].recv(100).partition(b"\r\n")[0].split()[1] in (b"405", b"400")
    assert slowest < 1
    assert grown < 40 * _MIB
    assert threads < 50
    assert upstream.count("manifests/1$") == 0
