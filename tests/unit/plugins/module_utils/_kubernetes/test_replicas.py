# SPDX-License-Identifier: GPL-3.0-or-later
"""The replicas of a cache, with pods on an API server and stand-ins for the streams to them."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import ssl
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import upstream
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes import exec as streams
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes import replicas as _replicas
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import PermanentError, TransientError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.replicas import Replicas
from kubernetes.client.exceptions import ApiException
from websocket import WebSocketException

from tests.unit.plugins.clock import Clock
from tests.unit.plugins.kubernetes_api import ApiServer, Refusal

HOST = "us-central1-docker.pkg.dev"
TOKEN, PASSWORD = "ya29.the-access-token", "the-cache-password"
STS_WORDS = "invalid_grant: The audience in ID Token does not match the expected audience"
READY = {"Initialized": "True", "Ready": "True"}
POD = ("pods", "registry-cache", "cache-0")


@pytest.fixture
def replicas(server: ApiServer) -> Replicas:
    return Replicas(server.client(), "registry-cache", "registry", 5000)


# The pods


def put(server: ApiServer, name: str, conditions: dict[str, str] | None, **metadata: Any) -> None:
    made = {"conditions": [{"type": kind, "status": status} for kind, status in conditions.items()]} if conditions else {}
    server.add("pods", "registry-cache", name, metadata={"labels": {"app": "cache"}, **metadata}, status=made)


def test_ready_pods_in_order(server: ApiServer, replicas: Replicas) -> None:
    put(server, "cache-1", READY)
    put(server, "cache-0", READY)
    put(server, "cache-old", {"Ready": "False"}, deletionTimestamp="now")
    put(server, "another", READY, labels={"app": "other"})
    assert replicas.ready("app=cache") == ["cache-0", "cache-1"]


@pytest.mark.parametrize("leaving", [False, True])
def test_no_pods(server: ApiServer, replicas: Replicas, leaving: bool) -> None:
    if leaving:
        put(server, "cache-0", READY, deletionTimestamp="now")
    with pytest.raises(PermanentError, match="no pod in namespace registry-cache has the labels app=cache"):
        replicas.ready("app=cache")


def test_pods_that_are_not_ready(server: ApiServer, replicas: Replicas) -> None:
    put(server, "cache-2", {"Ready": "False"})
    put(server, "cache-0", READY)
    put(server, "cache-1", None)
    put(server, "cache-3", {"Initialized": "True"})
    with pytest.raises(PermanentError, match="not ready in namespace registry-cache: cache-1, cache-2, cache-3$"):
        replicas.ready("app=cache")


def test_a_touch_is_an_annotation(server: ApiServer, replicas: Replicas) -> None:
    put(server, "cache-0", READY)
    replicas.touch("cache-0", "1")
    assert server.objects[POD]["metadata"]["annotations"] == {"registry-cache.pullthrough/touched": "1"}


@pytest.mark.parametrize("status", [403, 404])
def test_a_touch_may_fail(server: ApiServer, replicas: Replicas, status: int) -> None:
    put(server, "cache-0", READY)

    def refuse(method: str, _path: str) -> None:
        if method == "PATCH":
            raise Refusal(status, "no")

    server.hook = refuse
    replicas.touch("cache-0", "1")
    assert ("PATCH", "/api/v1/namespaces/registry-cache/pods/cache-0") in server.asked


# The credential helper


class Session:
    """An exec stream. Without a status it has not ended. An empty status means that the connection broke."""

    def __init__(self, status: str | None, output: str | None, errors: str | None) -> None:
        self._status, self._output, self._errors, self.closed = status, output, errors, False

    def run_forever(self, timeout: float) -> None:
        assert timeout > 0

    def is_open(self) -> bool:
        return self._status is None

    def read_channel(self, channel: int) -> str:
        assert channel == 3 and self._status is not None
        return self._status

    def read_stdout(self, timeout: float) -> str | None:
        return self._output

    def read_stderr(self, timeout: float) -> str | None:
        return self._errors

    def close(self) -> None:
        self.closed = True


def exited(code: int) -> str:
    """Return the Status at the end of an exec stream (k8s.io/apimachinery pkg/util/remotecommand)."""
    if code == 0:
        return json.dumps({"metadata": {}, "status": "Success"})
    cause = {"reason": "ExitCode", "message": str(code)}
    return json.dumps({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [cause]}})


def helper(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch, code: int | str | None, output: str | None, errors: str | None = None
) -> Any:
    session, seen = Session(exited(code) if isinstance(code, int) else code, output, errors), {}

    def stream(_method: Any, *arguments: Any, **options: Any) -> Session:
        seen.update(options, arguments=arguments)
        return session

    monkeypatch.setattr(streams, "stream", stream)
    try:
        result = replicas.run_helper("cache-0", "docker-credential-gcr", HOST)
    finally:
        assert session.closed and seen["arguments"] == ("cache-0", "registry-cache") and seen["container"] == "registry"
        # The host and the helper are arguments of the shell, never a part of its script.
        assert seen["command"][:2] == ["sh", "-c"] and seen["command"][3:] == ["sh", HOST, "docker-credential-gcr"]
    return result


def test_helper_answer(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = json.dumps({"ServerURL": HOST, "Username": "_token", "Secret": TOKEN})
    assert helper(replicas, monkeypatch, 0, answer) == ("_token", TOKEN)


@pytest.mark.parametrize(("output", "errors"), [(STS_WORDS, None), (None, f"{STS_WORDS}\n")])
def test_helper_error_message(replicas: Replicas, monkeypatch: pytest.MonkeyPatch, output: str | None, errors: str | None) -> None:
    with pytest.raises(TransientError) as error:
        helper(replicas, monkeypatch, 1, output, errors)
    assert str(error.value) == STS_WORDS


@pytest.mark.parametrize("code", [126, 127])
def test_helper_is_missing(replicas: Replicas, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    with pytest.raises(PermanentError, match="docker-credential-gcr cannot be run in container registry: not found"):
        helper(replicas, monkeypatch, code, None, "not found\n")


def test_helper_hangs(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransientError, match="did not end within"):
        helper(replicas, monkeypatch, None, TOKEN)


def test_command_that_does_not_start(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "Internal error occurred: error executing command in container: no sh"
    cause = {"message": "error executing command in container: no sh"}
    status = {"status": "Failure", "message": words, "reason": "InternalError", "details": {"causes": [cause]}}
    with pytest.raises(PermanentError) as error:
        helper(replicas, monkeypatch, json.dumps(status), None)
    assert str(error.value) == f"docker-credential-gcr cannot be run in container registry: {words}"


def test_stream_without_an_end(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransientError) as error:
        helper(replicas, monkeypatch, "", TOKEN)
    assert "the stream to it broke" in str(error.value) and TOKEN not in str(error.value)


@pytest.mark.parametrize("error", [WebSocketException("lost"), OSError("lost")])
def test_stream_that_breaks(replicas: Replicas, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def lose(self: Session, timeout: float) -> None:
        raise error

    monkeypatch.setattr(Session, "run_forever", lose)
    with pytest.raises(TransientError, match="the stream to it broke: lost"):
        helper(replicas, monkeypatch, 0, None)


HANDSHAKE = "Handshake status 403 Forbidden -+-+- {'content-type': 'application/json'} -+-+- "


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ApiException(status=0, reason=HANDSHAKE + '{"message": "pods is forbidden"}'), "pods is forbidden"),
        (ApiException(status=0, reason="[Errno 111] Connection refused"), "[Errno 111] Connection refused"),
    ],
)
@pytest.mark.parametrize("opener", ["stream", "portforward"])
def test_no_stream(replicas: Replicas, monkeypatch: pytest.MonkeyPatch, opener: str, error: ApiException, expected: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(streams, opener, refuse)
    with pytest.raises(PermanentError) as caught:
        if opener == "stream":
            replicas.run_helper("cache-0", "docker-credential-gcr", HOST)
        else:
            replicas.fetch("cache-0", "/v2/", None, None)
    assert str(caught.value) == f"the API server refuses the stream to it: {expected}"


def registry(replicas: Replicas, monkeypatch: pytest.MonkeyPatch, answer: bytes, error: str | None, user: str | None = "nodes") -> Any:
    """Get a manifest through a port-forward to a registry with this answer; return the result and the request."""
    ours, theirs = socket.socketpair()
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    forward = SimpleNamespace(socket=lambda port: ours, error=lambda port: error)

    def portforward(_method: Any, *arguments: Any, **options: Any) -> Any:
        assert arguments == ("cache-0", "registry-cache") and options == {"ports": "5000"}
        return forward

    monkeypatch.setattr(streams, "portforward", portforward)
    try:
        result = replicas.fetch("cache-0", "/v2/p/manifests/1", user, PASSWORD)
        return result, theirs.recv(65536).decode()
    finally:
        assert ours.fileno() == -1
        theirs.close()


@pytest.mark.parametrize("user", ["nodes", None])
def test_registry_answer(replicas: Replicas, monkeypatch: pytest.MonkeyPatch, user: str | None) -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nwords"
    result, request = registry(replicas, monkeypatch, answer, None, user)
    assert result == (404, b"words") and request.startswith("GET /v2/p/manifests/1 HTTP/1.1\r\n")
    basic = base64.b64encode(f"nodes:{PASSWORD}".encode()).decode()
    assert re.findall("Authorization: (.*)\r\n", request) == ([f"Basic {basic}"] if user else [])
    assert f"Accept: {upstream.ACCEPT}\r\n" in request


@pytest.mark.parametrize(
    ("answer", "error", "expected"),
    [
        (b"", "dial tcp4 127.0.0.1:5000: connect: connection refused", "connection refused"),
        (b"", None, "closed connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", None, "IncompleteRead"),
        (b"not HTTP\r\n\r\n", None, "not HTTP"),
    ],
)
def test_registry_does_not_answer(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch, answer: bytes, error: str | None, expected: str
) -> None:
    with pytest.raises(TransientError) as caught:
        registry(replicas, monkeypatch, answer, error)
    assert str(caught.value).startswith("no answer from its registry (") and expected in str(caught.value)
    assert PASSWORD not in str(caught.value)


# The answer to a client that tries HTTPS first

NOT_HTTP = re.compile(
    "port 5000 answers a TLS ClientHello with (.+) instead of b'HTTP/'. containerd .+config_path.+use the cache's own image"
)


class Port:
    """A server at the port of a replica. It reads the whole request, sends an answer in parts, and may close the connection."""

    def __init__(
        self, replicas: Replicas, monkeypatch: pytest.MonkeyPatch, *answer: bytes, closes: bool = False, error: str | None = None
    ) -> None:
        self.question, self._answer, self._closes = b"", answer, closes
        ours, self._theirs = socket.socketpair()
        self._theirs.settimeout(5)
        forward = SimpleNamespace(socket=lambda port: ours, error=lambda port: error)
        monkeypatch.setattr(streams, "portforward", lambda *_, **options: forward if options == {"ports": "5000"} else None)
        self._replicas, self._ours = replicas, ours

    def _serve(self) -> None:
        while len(self.question) < 5 or len(self.question) < 5 + int.from_bytes(self.question[3:5], "big"):
            self.question += self._theirs.recv(65536)
        # The client may have closed the connection already.
        with contextlib.suppress(OSError):
            for part in self._answer:
                self._theirs.sendall(part)
                time.sleep(0.02)
        if self._closes:
            self._theirs.close()

    def require_http(self) -> None:
        server = threading.Thread(target=self._serve)
        server.start()
        try:
            self._replicas.require_http("cache-0")
        finally:
            server.join(5)
            assert self._ours.fileno() == -1 and not server.is_alive()
            self._theirs.close()

    def error(self, kind: type[Exception]) -> str:
        with pytest.raises((TransientError, PermanentError)) as error:
            self.require_http()
        assert type(error.value) is kind
        return str(error.value)


@pytest.mark.parametrize("parts", [(b"HTTP/1.1 400 Bad Request\r\n\r\n",), (b"HT", b"TP", b"/1.0 400 Bad Request\r\n")])
@pytest.mark.parametrize("closes", [True, False])
def test_http_answer_to_a_tls_hello(replicas: Replicas, monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...], closes: bool) -> None:
    port = Port(replicas, monkeypatch, *parts, closes=closes)
    port.require_http()
    # It contains a line break, at which a Go server stops reading the first line. Otherwise that server would wait.
    assert b"\n" in port.question


def test_the_tls_hello_is_valid(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TLS server that receives it only lacks a certificate, and its alert is recognized as TLS."""
    hello, alert = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello.write(_replicas.client_hello())
    with pytest.raises(ssl.SSLError) as error:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_bio(hello, alert, server_side=True).do_handshake()
    assert error.value.reason == "NO_SHARED_CIPHER"
    assert "port 5000 uses TLS" in Port(replicas, monkeypatch, alert.read(), closes=True).error(PermanentError)


def test_tls_answer_to_a_tls_hello(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    message = Port(replicas, monkeypatch, b"\x16\x03\x03\x00\x7a\x02\x00").error(PermanentError)
    assert "port 5000 uses TLS" in message and "sidecar" in message


@pytest.mark.parametrize(
    ("answer", "closes", "kind", "expected"),
    [
        ((), True, TransientError, "nothing and closes the connection"),
        ((b"\x00\x00\x06\x04\x00\x00",), False, PermanentError, r"b'\x00\x00\x06\x04\x00'"),
        ((b"http/1.1 400\r\n",), True, PermanentError, "b'http/'"),
        ((b"HTTP",), True, PermanentError, "b'HTTP'"),
    ],
)
def test_other_answer_to_a_tls_hello(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch, answer: tuple[bytes, ...], closes: bool, kind: type[Exception], expected: str
) -> None:
    found = NOT_HTTP.match(Port(replicas, monkeypatch, *answer, closes=closes).error(kind))
    assert found and found[1] == expected


def test_no_answer_to_a_tls_hello(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_replicas, "_HELLO_SECONDS", 0.3)
    found = NOT_HTTP.match(Port(replicas, monkeypatch).error(TransientError))
    assert found and found[1] == "nothing for 0.3 s"


class Slow:
    """A connection on which one byte of HTTP arrives every two seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._left, self._limit = clock, b"HTTP/1.1 400", 0.0

    def settimeout(self, seconds: float) -> None:
        self._limit = seconds

    def sendall(self, _question: bytes) -> None:
        pass

    def recv(self, _size: int) -> bytes:
        self._clock.sleep(min(self._limit, 2))
        if self._limit < 2:
            raise TimeoutError
        byte, self._left = self._left[:1], self._left[1:]
        return byte


def test_the_timeout_is_for_the_whole_answer_to_a_tls_hello(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(_replicas, "time", SimpleNamespace(monotonic=clock))
    assert _replicas._answer(Slow(clock), b"") == (b"HT", False)
    assert sum(clock.slept) == 5


def test_no_connection_for_a_tls_hello(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "dial tcp4 127.0.0.1:5000: connect: connection refused"
    assert Port(replicas, monkeypatch, closes=True, error=words).error(TransientError) == f"no answer from its registry ({words})"


@pytest.mark.parametrize("output", ["", TOKEN, json.dumps({"Secret": TOKEN}), json.dumps([TOKEN]), json.dumps(TOKEN)])
def test_helper_without_credential(replicas: Replicas, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    with pytest.raises(TransientError) as error:
        helper(replicas, monkeypatch, 0, output)
    assert "returned no credential" in str(error.value) and TOKEN not in str(error.value)
    assert error.value.__suppress_context__
