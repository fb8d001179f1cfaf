# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of the bench pulls like containerd, and verifies the digest of every body."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from bench import containerd_client, parallel_pulls
from bench.content import Blob, Image
from bench.endpoint import Endpoint
from bench.paced_upstream.server import Server
from bench.paced_upstream.state import Fault, Settings, State
from bench.sinks import Keep, Sink, Stream

BODY = bytes(range(256)) * 4
BLOB = Blob(f"sha256:{hashlib.sha256(BODY).hexdigest()}", len(BODY))
PATH = f"/v2/some/blobs/{BLOB.digest}"


@pytest.fixture
def scripted() -> Iterator[Callable[..., tuple[Endpoint, list[bytes]]]]:
    """A server that gives one prepared answer per connection, and records requests."""
    listener, servers = socket.create_server(("127.0.0.1", 0)), []

    def start(*answers: bytes) -> tuple[Endpoint, list[bytes]]:
        asked: list[bytes] = []

        def serve() -> None:
            for answer in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:  # the test has ended
                    return
                with connection:
                    asked.append(connection.recv(65536))
                    connection.sendall(answer)

        servers.append(threading.Thread(target=serve, daemon=True))
        servers[-1].start()
        return Endpoint(listener.getsockname()[1], "nodes", "password", timeout=5), asked

    yield start
    listener.shutdown(socket.SHUT_RDWR)  # with only close(), the thread would stay in accept() and fail during a later test
    for server in servers:
        server.join(5)
    listener.close()


def answer(body: bytes, status: str = "200 OK", length: int | None = None, more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n{more}\r\n".encode() + body


def fetch(endpoint: Endpoint, sink: Sink | None = None, **options: bool | int) -> containerd_client.Transfer:
    transfer = containerd_client.Session(endpoint).fetch(PATH, BLOB, sink or Keep(BLOB.size), **options)
    transfer.check()
    return transfer


@pytest.mark.parametrize("sink", [Keep(BLOB.size), Stream()], ids=["kept", "streamed"])
def test_an_interrupted_body_is_resumed_by_range(scripted: Callable, sink: Sink) -> None:
    rest = answer(BODY[300:], "206 Partial Content", more=f"Content-Range: bytes 300-{BLOB.size - 1}/{BLOB.size}\r\n")
    endpoint, asked = scripted(answer(BODY[:300], length=BLOB.size), rest)
    transfer = fetch(endpoint, sink)
    assert transfer.right
    assert (transfer.requests, transfer.resumed) == (2, 1)
    assert b"Range: bytes=300-\r\n" in asked[1]
    assert b"Range:" not in asked[0]


@pytest.mark.parametrize("sink", [Keep(BLOB.size), Stream()], ids=["kept", "streamed"])
def test_a_server_without_ranges_sends_everything_again(scripted: Callable, sink: Sink) -> None:
    endpoint, _ = scripted(answer(BODY[:300], length=BLOB.size), answer(BODY))
    assert fetch(endpoint, sink).right


def test_another_range_than_requested_is_refused(scripted: Callable) -> None:
    other = answer(BODY[200:], "206 Partial Content", more=f"Content-Range: bytes 200-{BLOB.size - 1}/{BLOB.size}\r\n")
    endpoint, _ = scripted(answer(BODY[:300], length=BLOB.size), other)
    transfer = fetch(endpoint)
    assert not transfer.complete
    assert not transfer.wrong


def test_without_resume_an_interruption_is_final(scripted: Callable) -> None:
    endpoint, asked = scripted(answer(BODY[:300], length=BLOB.size))
    transfer = fetch(endpoint, resume=False)
    assert (transfer.complete, transfer.wrong, len(asked)) == (False, False, 1)


def test_a_server_error_is_retried(scripted: Callable) -> None:
    endpoint, asked = scripted(answer(b"", "500 Oops"), answer(b"", "503 Later"), answer(BODY))
    assert fetch(endpoint).right
    assert len(asked) == 3


def test_it_gives_up_after_the_last_attempt(scripted: Callable) -> None:
    endpoint, asked = scripted(*[answer(b"", "500 Oops")] * 9)
    transfer = fetch(endpoint, retries=2)
    assert (transfer.complete, transfer.status, len(asked)) == (False, 500, 3)


def test_not_found_is_not_retried(scripted: Callable) -> None:
    endpoint, asked = scripted(*[answer(b"", "404 Not Found")] * 2)
    assert not fetch(endpoint).complete
    assert len(asked) == 1


@pytest.mark.parametrize("sink", [lambda: Keep(BLOB.size), Stream], ids=["kept", "streamed"])
@pytest.mark.parametrize(
    "body", [BODY[:500] + b"x" + BODY[501:], BODY[:-1], BODY + b"x"], ids=["a byte", "too short", "too long"]
)
def test_a_wrong_body_is_noticed(scripted: Callable, sink: Callable[[], Sink], body: bytes) -> None:
    endpoint, _ = scripted(answer(body))
    transfer = fetch(endpoint, sink())
    assert transfer.complete
    assert transfer.wrong
    assert not transfer.right


def test_a_pull_through_tokens_and_redirects(endpoint: Endpoint, state: State, image: Image) -> None:
    pull = containerd_client.pull(endpoint, image)
    pull.check()
    assert not pull.failed
    assert [transfer.right for transfer in pull.transfers] == [True] * 4
    assert pull.bytes == image.size + image.manifest.size
    assert state.counts[f"HEAD manifest {image.name}:latest"] == 1
    assert all(state.counts[f"GET content {blob.digest}"] == 1 for blob in image.blobs)


def test_a_pull_continues_after_an_interruption(endpoint: Endpoint, server: Server, state: State, image: Image) -> None:
    state.settings = Settings(faults={image.layers[0].digest: Fault("cut", times=1)})
    pull = containerd_client.pull(endpoint, image)
    pull.check()
    assert all(transfer.right for transfer in pull.transfers)
    assert sum(transfer.resumed for transfer in pull.transfers) == 1


def test_a_corrupt_layer_counts_as_wrong_not_as_failed(endpoint: Endpoint, state: State, image: Image) -> None:
    state.settings = Settings(faults={image.layers[0].digest: Fault("corrupt")})
    pull = containerd_client.pull(endpoint, image)
    pull.check()
    assert [t.blob.digest for t in pull.transfers if t.wrong] == [image.layers[0].digest]


def test_a_wrong_password_fails_the_pull(endpoint: Endpoint, image: Image) -> None:
    pull = containerd_client.pull(Endpoint(endpoint.port, endpoint.user, "wrong"), image)
    pull.check()
    assert pull.failed
    assert pull.first_byte == float("inf")


def test_many_clients_at_once(endpoint: Endpoint, state: State, image: Image) -> None:
    jobs = [parallel_pulls.Job(endpoint, image, after=0.2 * (n == 3)) for n in range(4)]
    jobs.append(parallel_pulls.Job(endpoint, image, image.layers[1], keep=False))
    pulls = parallel_pulls.run(jobs)
    assert all(transfer.right for pull in pulls for transfer in pull.transfers)
    assert [len(pull.transfers) for pull in pulls] == [4, 4, 4, 4, 1]
    assert pulls[3].started - pulls[0].started > 0.1
    assert state.counts[f"GET content {image.layers[1].digest}"] == 5


def test_a_manifest_matches_its_digest(state: State, image: Image) -> None:
    manifest = json.loads(state.library.manifest(image.manifest.digest).read_bytes())
    assert [layer["size"] for layer in manifest["layers"]] == [blob.size for blob in image.layers]
    assert state.library.image("bench/some", (3 << 20, 100_000)) == image
