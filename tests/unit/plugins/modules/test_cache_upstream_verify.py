# SPDX-License-Identifier: GPL-3.0-or-later
"""Module cache_upstream_verify with stand-ins for the replicas and the upstream."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import pathlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import reference as image_reference
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import upstream as _upstream
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes import replicas as _replicas
from ansible_collections.pullthrough.registry_cache.plugins.modules import cache_upstream_verify
from ansible_collections.pullthrough.registry_cache.plugins.modules.cache_upstream_verify import Hopeless, Refused
from kubernetes.client.exceptions import ApiException
from websocket import WebSocketException

from tests.in_process import run

IMAGE = "us-central1-docker.pkg.dev/p/r/i:1.0"
HOST = "us-central1-docker.pkg.dev"
MANIFEST = b'{"schemaVersion": 2}'
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
TOKEN, PASSWORD = "ya29.the-access-token", "the-cache-password"
STS_WORDS = "invalid_grant: The audience in ID Token does not match the expected audience"
GRANT_WORDS = "HTTP 403: Permission 'artifactregistry.repositories.downloadArtifacts' denied"
PARAMS = {
    "label_selector": "app=cache",
    "helper": "docker-credential-gcr",
    "timeout": 10,
    "cache_username": "nodes",
    "cache_password": PASSWORD,
}


class Clock:
    """Time that passes in sleep only."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Fakes:
    """The replicas, and the upstream behind _upstream.fetch_manifest; each answer can be a function of the pod."""

    def __init__(self, *pods: str) -> None:
        self.pods = list(pods)
        self.clock = Clock()
        self.calls: list[tuple[Any, ...]] = []
        self.helper: Callable[[str], tuple[str, str]] = lambda pod: ("_token", f"{TOKEN}-{pod}")
        self.upstream: Callable[[str], str] = lambda pod: DIGEST
        self.hello: Callable[[str], None] = lambda pod: None
        self.registry: Callable[[str], tuple[int, bytes]] = lambda pod: (200, MANIFEST)

    def ready(self, label_selector: str) -> list[str]:
        assert label_selector == "app=cache"
        return self.pods

    def run_helper(self, pod: str, helper: str, host: str) -> tuple[str, str]:
        self.calls.append(("helper", pod, helper, host))
        return self.helper(pod)

    def ask_upstream(self, *arguments: Any) -> str:
        self.calls.append(("upstream", *arguments))
        return self.upstream(arguments[4].removeprefix(f"{TOKEN}-"))

    def require_http(self, pod: str) -> None:
        self.calls.append(("hello", pod))
        self.hello(pod)

    def fetch(self, pod: str, path: str, username: str | None, password: str | None) -> tuple[int, bytes]:
        self.calls.append(("registry", pod, path, username, password))
        return self.registry(pod)

    def verify_all(self, **params: Any) -> list[dict[str, str]]:
        image = image_reference.parse(IMAGE)
        return cache_upstream_verify.verify_all(self, image, {**PARAMS, **params}, "/ca", self.clock, self.clock.sleep)

    def steps(self) -> list[tuple[str, str]]:
        return [(call[0], call[1]) for call in self.calls if call[0] != "upstream"]

    def error(self, kind: type[Exception], **params: Any) -> str:
        with pytest.raises((Refused, Hopeless)) as error:
            self.verify_all(**params)
        assert type(error.value) is kind
        assert TOKEN not in str(error.value) and PASSWORD not in str(error.value)
        return str(error.value)


def fails(error: Exception) -> Callable[[str], Any]:
    def answer(_pod: str) -> Any:
        raise error

    return answer


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    made = Fakes("cache-0", "cache-1")
    monkeypatch.setattr(_upstream, "fetch_manifest", made.ask_upstream)
    return made


# The steps


def test_success(fakes: Fakes) -> None:
    assert fakes.verify_all() == [{"pod": "cache-0", "digest": DIGEST}, {"pod": "cache-1", "digest": DIGEST}]
    assert fakes.calls == [
        call
        for pod in ("cache-0", "cache-1")
        for call in (
            ("helper", pod, "docker-credential-gcr", HOST),
            ("upstream", HOST, "p/r/i", "1.0", "_token", f"{TOKEN}-{pod}", "/ca"),
            ("hello", pod),
            ("registry", pod, "/v2/p/r/i/manifests/1.0", "nodes", PASSWORD),
        )
    ]
    assert fakes.clock.slept == []


def test_verify_asks_by_digest(fakes: Fakes) -> None:
    image = image_reference.parse(f"{HOST}/p/r/i:1.0@{DIGEST}")
    assert cache_upstream_verify.verify(fakes, "cache-1", image, PARAMS, None) == DIGEST
    assert fakes.calls[1][3] == DIGEST and fakes.calls[3][2] == f"/v2/p/r/i/manifests/{DIGEST}"


# Refusals, until the deadline


def test_helper_refusal(fakes: Fakes) -> None:
    fakes.helper = fails(Refused(STS_WORDS))
    message = fakes.error(Refused)
    assert "cache-0 gets no access token" in message and STS_WORDS in message
    assert sum(fakes.clock.slept) == 10 and fakes.steps() == [("helper", "cache-0")] * 6


def test_grant_refusal(fakes: Fakes) -> None:
    fakes.upstream = fails(_upstream.UpstreamError(GRANT_WORDS))
    message = fakes.error(Refused)
    assert message == f"{HOST}, asked with the credential of cache-0: {GRANT_WORDS}"
    # Each attempt takes a fresh credential, and a cached manifest is not asked for.
    assert sum(fakes.clock.slept) == 10 and fakes.steps() == [("helper", "cache-0")] * 6


@pytest.mark.parametrize("timeout", [0, 1])
def test_one_attempt_without_time(fakes: Fakes, timeout: int) -> None:
    fakes.helper = fails(Refused(STS_WORDS))
    fakes.error(Refused, timeout=timeout)
    assert fakes.clock.slept == [] and len(fakes.calls) == 1


def test_second_replica_alone_is_refused(fakes: Fakes) -> None:
    def upstream(pod: str) -> str:
        if pod == "cache-1":
            raise _upstream.UpstreamError(GRANT_WORDS)
        return DIGEST

    fakes.upstream = upstream
    assert "cache-1" in fakes.error(Refused)
    assert fakes.steps().count(("helper", "cache-0")) == 1 and fakes.steps().count(("helper", "cache-1")) == 6


def test_replicas_share_one_deadline(fakes: Fakes) -> None:
    left = {"cache-0": 3, "cache-1": 99}

    def upstream(pod: str) -> str:
        left[pod] -= 1
        if left[pod] >= 0:
            raise _upstream.UpstreamError(GRANT_WORDS)
        return DIGEST

    fakes.upstream = upstream
    assert "cache-1" in fakes.error(Refused)
    assert sum(fakes.clock.slept) == 10


@pytest.mark.parametrize("step", ["helper", "upstream", "hello", "registry"])
def test_recovers(fakes: Fakes, step: str) -> None:
    error = _upstream.UpstreamError(GRANT_WORDS) if step == "upstream" else Refused("not yet")
    errors, good = [error] * 3, getattr(fakes, step)

    def answer(pod: str) -> Any:
        if errors:
            raise errors.pop()
        return good(pod)

    setattr(fakes, step, answer)
    assert [one["pod"] for one in fakes.verify_all()] == ["cache-0", "cache-1"]
    assert len(fakes.clock.slept) == 3


def test_nothing_is_fetched_from_what_answers_no_tls_hello(fakes: Fakes) -> None:
    """Nor gets it the password of the cache's user."""
    fakes.hello = fails(Hopeless("port 5000 speaks TLS"))
    assert fakes.error(Hopeless) == "cache-0: port 5000 speaks TLS"
    assert fakes.clock.slept == [] and fakes.steps() == [("helper", "cache-0"), ("hello", "cache-0")]


def test_digest_mismatch(fakes: Fakes) -> None:
    other = "sha256:" + hashlib.sha256(b"other").hexdigest()
    fakes.registry = lambda pod: (200, b"other")
    message = fakes.error(Refused)
    assert message == f"cache-0 serves {other}, the upstream {DIGEST}"
    assert sum(fakes.clock.slept) == 10


def test_registry_refusal(fakes: Fakes) -> None:
    fakes.registry = lambda pod: (404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}')
    message = fakes.error(Refused)
    assert "the upstream has it, but cache-0 answers HTTP 404: manifest unknown" in message
    assert sum(fakes.clock.slept) == 10


def test_registry_without_answer(fakes: Fakes) -> None:
    fakes.registry = fails(Refused("no answer from its registry (reset)"))
    assert fakes.error(Refused) == "cache-0: no answer from its registry (reset)"


# What waiting does not mend


def test_upstream_does_not_have_the_image(fakes: Fakes) -> None:
    fakes.upstream = fails(_upstream.NotFoundError('HTTP 404: Failed to fetch "1.0"'))
    assert fakes.error(Hopeless) == f'{HOST} does not have it: HTTP 404: Failed to fetch "1.0"'
    assert fakes.clock.slept == [] and len(fakes.calls) == 2


def test_no_stream_to_the_registry(fakes: Fakes) -> None:
    fakes.registry = fails(Hopeless("the API server opens no stream to it"))
    assert fakes.error(Hopeless) == "cache-0: the API server opens no stream to it"
    assert fakes.clock.slept == []


def test_cache_refuses_its_user(fakes: Fakes) -> None:
    fakes.registry = lambda pod: (401, b'{"errors": [{"message": "authentication required"}]}')
    message = fakes.error(Refused)
    assert "cache-0" in message and "cache_username" in message and "HTTP 401: authentication required" in message
    assert fakes.clock.slept  # a new htpasswd takes a while to reach the pod


def test_helper_that_cannot_be_run(fakes: Fakes) -> None:
    fakes.helper = fails(Hopeless("docker-credential-gcr cannot be run"))
    assert "cache-0 gets no access token: docker-credential-gcr cannot be run" in fakes.error(Hopeless)
    assert fakes.clock.slept == [] and len(fakes.calls) == 1


# The pods


def pod(name: str, *conditions: tuple[str, str], deleted: str | None = None) -> SimpleNamespace:
    made = [SimpleNamespace(type=kind, status=status) for kind, status in conditions] or None
    metadata = SimpleNamespace(name=name, uid=f"uid-{name}", deletion_timestamp=deleted)
    return SimpleNamespace(metadata=metadata, status=SimpleNamespace(conditions=made))


UP = (("Initialized", "True"), ("Ready", "True"))


class Api:
    """What Replicas asks of the API server."""

    def __init__(self, *pods: SimpleNamespace) -> None:
        self.pods = pods

    def list_namespaced_pod(self, namespace: str, label_selector: str) -> SimpleNamespace:
        assert (namespace, label_selector) == ("registry-cache", "app=cache")
        return SimpleNamespace(items=list(self.pods))

    def connect_get_namespaced_pod_exec(self) -> None:
        raise AssertionError("called through stream only")

    connect_get_namespaced_pod_portforward = connect_get_namespaced_pod_exec


def replicas_of(monkeypatch: pytest.MonkeyPatch, *pods: SimpleNamespace) -> cache_upstream_verify.Replicas:
    monkeypatch.setattr(_replicas, "CoreV1Api", lambda client: Api(*pods))
    return cache_upstream_verify.Replicas(None, "registry-cache", "registry", 5000)


def test_ready_pods_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = pod("cache-1", *UP), pod("cache-0", *UP), pod("cache-old", ("Ready", "False"), deleted="now")
    assert replicas_of(monkeypatch, *pods).ready("app=cache") == ["cache-0", "cache-1"]


@pytest.mark.parametrize("pods", [(), (pod("cache-0", *UP, deleted="now"),)])
def test_no_pods(monkeypatch: pytest.MonkeyPatch, pods: tuple[SimpleNamespace, ...]) -> None:
    with pytest.raises(Hopeless, match="no pod in namespace registry-cache has the labels app=cache"):
        replicas_of(monkeypatch, *pods).ready("app=cache")


def test_pods_that_are_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = (
        pod("cache-2", ("Ready", "False")),
        pod("cache-0", *UP),
        pod("cache-1"),
        pod("cache-3", ("Initialized", "True")),
    )
    replicas, clock = replicas_of(monkeypatch, *pods), Clock()
    with pytest.raises(Hopeless, match="not ready in namespace registry-cache: cache-1, cache-2, cache-3$"):
        cache_upstream_verify.verify_all(replicas, image_reference.parse(IMAGE), PARAMS, None, clock, clock.sleep)
    assert clock.slept == []


class Session:
    """An exec stream; without a status it has not ended, and an empty one is what a broken connection leaves."""

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
    """The Status that ends an exec stream (k8s.io/apimachinery pkg/util/remotecommand)."""
    if code == 0:
        return json.dumps({"metadata": {}, "status": "Success"})
    cause = {"reason": "ExitCode", "message": str(code)}
    return json.dumps({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [cause]}})


def helper(
    monkeypatch: pytest.MonkeyPatch, code: int | str | None, output: str | None, errors: str | None = None
) -> Any:
    session, seen = Session(exited(code) if isinstance(code, int) else code, output, errors), {}

    def stream(_method: Any, *arguments: Any, **options: Any) -> Session:
        seen.update(options, arguments=arguments)
        return session

    monkeypatch.setattr(_replicas, "stream", stream)
    try:
        result = replicas_of(monkeypatch).run_helper("cache-0", "docker-credential-gcr", HOST)
    finally:
        assert session.closed and seen["arguments"] == ("cache-0", "registry-cache") and seen["container"] == "registry"
        # Host and helper are arguments of the shell, never part of its text.
        assert seen["command"][:2] == ["sh", "-c"] and seen["command"][3:] == ["sh", HOST, "docker-credential-gcr"]
    return result


def test_helper_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = json.dumps({"ServerURL": HOST, "Username": "_token", "Secret": TOKEN})
    assert helper(monkeypatch, 0, answer) == ("_token", TOKEN)


@pytest.mark.parametrize(("output", "errors"), [(STS_WORDS, None), (None, f"{STS_WORDS}\n")])
def test_helper_fails_in_its_words(monkeypatch: pytest.MonkeyPatch, output: str | None, errors: str | None) -> None:
    with pytest.raises(Refused) as error:
        helper(monkeypatch, 1, output, errors)
    assert str(error.value) == STS_WORDS


@pytest.mark.parametrize("code", [126, 127])
def test_helper_is_missing(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    with pytest.raises(Hopeless, match="docker-credential-gcr cannot be run in container registry: not found"):
        helper(monkeypatch, code, None, "not found\n")


def test_helper_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="gave no answer within"):
        helper(monkeypatch, None, TOKEN)


def test_command_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "Internal error occurred: error executing command in container: no sh"
    cause = {"message": "error executing command in container: no sh"}
    status = {"status": "Failure", "message": words, "reason": "InternalError", "details": {"causes": [cause]}}
    with pytest.raises(Hopeless) as error:
        helper(monkeypatch, json.dumps(status), None)
    assert str(error.value) == f"docker-credential-gcr cannot be run in container registry: {words}"


def test_stream_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused) as error:
        helper(monkeypatch, "", TOKEN)
    assert "the stream to it broke" in str(error.value) and TOKEN not in str(error.value)


def test_stream_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "run_forever", lambda *_, **__: fails(WebSocketException("lost"))(""))
    with pytest.raises(Refused, match="the stream to it broke: lost"):
        helper(monkeypatch, 0, None)


HANDSHAKE = "Handshake status 403 Forbidden -+-+- {'content-type': 'application/json'} -+-+- "


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ApiException(status=0, reason=HANDSHAKE + '{"message": "pods is forbidden"}'), "pods is forbidden"),
        (ApiException(status=0, reason="[Errno 111] Connection refused"), "[Errno 111] Connection refused"),
    ],
)
@pytest.mark.parametrize("opener", ["stream", "portforward"])
def test_no_stream(monkeypatch: pytest.MonkeyPatch, opener: str, error: ApiException, expected: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(_replicas, opener, refuse)
    replicas = replicas_of(monkeypatch)
    with pytest.raises(Hopeless) as caught:
        if opener == "stream":
            replicas.run_helper("cache-0", "docker-credential-gcr", HOST)
        else:
            replicas.fetch("cache-0", "/v2/", None, None)
    assert str(caught.value) == f"the API server opens no stream to it: {expected}"


def registry(monkeypatch: pytest.MonkeyPatch, answer: bytes, error: str | None, user: str | None = "nodes") -> Any:
    """GET a manifest through a port-forward to a registry that gives that answer; with the request it got."""
    ours, theirs = socket.socketpair()
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    forward = SimpleNamespace(socket=lambda port: ours, error=lambda port: error)

    def portforward(_method: Any, *arguments: Any, **options: Any) -> Any:
        assert arguments == ("cache-0", "registry-cache") and options == {"ports": "5000"}
        return forward

    monkeypatch.setattr(_replicas, "portforward", portforward)
    try:
        result = replicas_of(monkeypatch).fetch("cache-0", "/v2/p/manifests/1", user, PASSWORD)
        return result, theirs.recv(65536).decode()
    finally:
        assert ours.fileno() == -1
        theirs.close()


@pytest.mark.parametrize("user", ["nodes", None])
def test_registry_answer(monkeypatch: pytest.MonkeyPatch, user: str | None) -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nwords"
    result, request = registry(monkeypatch, answer, None, user)
    assert result == (404, b"words") and request.startswith("GET /v2/p/manifests/1 HTTP/1.1\r\n")
    basic = base64.b64encode(f"nodes:{PASSWORD}".encode()).decode()
    assert re.findall("Authorization: (.*)\r\n", request) == ([f"Basic {basic}"] if user else [])
    assert f"Accept: {_upstream.ACCEPT}\r\n" in request


@pytest.mark.parametrize(
    ("answer", "error", "expected"),
    [
        (b"", "dial tcp4 127.0.0.1:5000: connect: connection refused", "connection refused"),
        (b"", None, "closed connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", None, "IncompleteRead"),
        (b"not HTTP\r\n\r\n", None, "not HTTP"),
    ],
)
def test_registry_gives_no_answer(monkeypatch: pytest.MonkeyPatch, answer: bytes, error: str | None, expected: str) -> None:
    with pytest.raises(Refused) as caught:
        registry(monkeypatch, answer, error)
    assert str(caught.value).startswith("no answer from its registry (") and expected in str(caught.value)
    assert PASSWORD not in str(caught.value)


# The answer to a client that tries HTTPS first

NOT_HTTP = re.compile(
    "port 5000 answers a TLS ClientHello with (.+), in place of b'HTTP/'. containerd .+config_path.+use the cache's own image"
)


class Port:
    """What listens at the port of a replica: it gets the whole question, then sends an answer in parts, and may close."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answer: bytes, closes: bool = False, error: str | None = None) -> None:
        self.question, self._answer, self._closes = b"", answer, closes
        ours, self._theirs = socket.socketpair()
        self._theirs.settimeout(5)
        forward = SimpleNamespace(socket=lambda port: ours, error=lambda port: error)
        monkeypatch.setattr(_replicas, "portforward", lambda *_, **options: forward if options == {"ports": "5000"} else None)
        self._replicas, self._ours = replicas_of(monkeypatch), ours

    def _serve(self) -> None:
        while len(self.question) < 5 or len(self.question) < 5 + int.from_bytes(self.question[3:5], "big"):
            self.question += self._theirs.recv(65536)
        # Who has heard enough may be gone.
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
        with pytest.raises((Refused, Hopeless)) as error:
            self.require_http()
        assert type(error.value) is kind
        return str(error.value)


@pytest.mark.parametrize("parts", [(b"HTTP/1.1 400 Bad Request\r\n\r\n",), (b"HT", b"TP", b"/1.0 400 Bad Request\r\n")])
@pytest.mark.parametrize("closes", [True, False])
def test_http_answers_a_tls_hello(monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...], closes: bool) -> None:
    port = Port(monkeypatch, *parts, closes=closes)
    port.require_http()
    # The first line of a request ends for a server by Go; else it would wait.
    assert b"\n" in port.question


def test_the_tls_hello_is_a_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes it lacks nothing but a certificate, and its alert is known for TLS."""
    hello, alert = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello.write(_replicas.client_hello())
    with pytest.raises(ssl.SSLError) as error:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_bio(hello, alert, server_side=True).do_handshake()
    assert error.value.reason == "NO_SHARED_CIPHER"
    assert "port 5000 speaks TLS" in Port(monkeypatch, alert.read(), closes=True).error(Hopeless)


def test_tls_answers_a_tls_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    message = Port(monkeypatch, b"\x16\x03\x03\x00\x7a\x02\x00").error(Hopeless)
    assert "port 5000 speaks TLS" in message and "sidecar" in message


@pytest.mark.parametrize(
    ("answer", "closes", "kind", "expected"),
    [
        ((), True, Refused, "nothing and closes the connection"),
        ((b"\x00\x00\x06\x04\x00\x00",), False, Hopeless, r"b'\x00\x00\x06\x04\x00'"),
        ((b"http/1.1 400\r\n",), True, Hopeless, "b'http/'"),
        ((b"HTTP",), True, Hopeless, "b'HTTP'"),
    ],
)
def test_no_http_answers_a_tls_hello(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[bytes, ...], closes: bool, kind: type[Exception], expected: str
) -> None:
    found = NOT_HTTP.match(Port(monkeypatch, *answer, closes=closes).error(kind))
    assert found and found[1] == expected


def test_nothing_answers_a_tls_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_replicas, "_HELLO_SECONDS", 0.3)
    found = NOT_HTTP.match(Port(monkeypatch).error(Refused))
    assert found and found[1] == "nothing for 0.3 s"


class Slow:
    """A connection on which a byte of HTTP comes every two seconds."""

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


def test_the_answer_to_a_tls_hello_has_its_time_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(_replicas, "time", SimpleNamespace(monotonic=clock))
    assert _replicas._answer(Slow(clock), b"") == (b"HT", False)
    assert sum(clock.slept) == 5


def test_nobody_gets_a_tls_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "dial tcp4 127.0.0.1:5000: connect: connection refused"
    assert Port(monkeypatch, closes=True, error=words).error(Refused) == f"no answer from its registry ({words})"


@pytest.mark.parametrize("output", ["", TOKEN, json.dumps({"Secret": TOKEN}), json.dumps([TOKEN]), json.dumps(TOKEN)])
def test_helper_without_credential(monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    with pytest.raises(Refused) as error:
        helper(monkeypatch, 0, output)
    assert "returned no credential" in str(error.value) and TOKEN not in str(error.value)
    assert error.value.__suppress_context__


# The module


def module(**arguments: Any) -> dict[str, Any]:
    given = {"namespace": "registry-cache", "label_selector": "app=cache", "image": IMAGE, "timeout": 0}
    user = {"cache_username": "nodes", "cache_password": PASSWORD}
    merged = {**given, **user, **arguments}
    return run(cache_upstream_verify, **{name: value for name, value in merged.items() if value is not None})


@pytest.fixture
def cluster(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    client = SimpleNamespace(client=SimpleNamespace(client="the client"))
    monkeypatch.setattr(cache_upstream_verify, "get_api_client", lambda module: client)

    def replicas(*arguments: Any) -> Fakes:
        assert arguments == ("the client", "registry-cache", "registry", 5000)
        return fakes

    monkeypatch.setattr(cache_upstream_verify, "Replicas", replicas)
    return fakes


def test_module_success(cluster: Fakes) -> None:
    result = module()
    replicas = [{"pod": "cache-0", "digest": DIGEST}, {"pod": "cache-1", "digest": DIGEST}]
    assert result == {"changed": False, "replicas": replicas}
    assert cluster.calls[1][-1] is None


def test_module_refused(cluster: Fakes) -> None:
    cluster.helper = fails(Refused(STS_WORDS))
    result = module()
    assert result["failed"] and result["msg"] == f"{IMAGE}, tried for 0 s: cache-0 gets no access token: {STS_WORDS}"


def test_module_hopeless(cluster: Fakes) -> None:
    cluster.helper = fails(Hopeless("docker-credential-gcr cannot be run"))
    result = module(timeout=300)
    assert result["failed"] and result["msg"].startswith(f"{IMAGE}: cache-0 gets no access token")
    assert TOKEN not in json.dumps(result) and PASSWORD not in json.dumps(result)


@pytest.mark.parametrize("error", [ApiException(status=403, reason="Forbidden"), OSError("Forbidden")])
def test_module_without_cluster(cluster: Fakes, error: Exception) -> None:
    cluster.helper = fails(error)
    result = module()
    assert result["failed"] and "Forbidden" in result["msg"] and TOKEN not in result["msg"]


def test_module_says_the_api_servers_words_alone(cluster: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ApiException(status=403, reason="Forbidden")
    error.body, error.headers = '{"message": "pods is forbidden: User x cannot list"}', {"Audit-Id": "1"}
    monkeypatch.setattr(cluster, "ready", fails(error))
    assert module()["msg"] == f"{IMAGE}: the API server refuses: pods is forbidden: User x cannot list"


def test_module_blames_the_image_for_nothing_else(cluster: Fakes) -> None:
    cluster.helper = fails(ValueError("something else"))
    with pytest.raises(ValueError, match="something else"):
        module()


def test_module_malformed_image(cluster: Fakes) -> None:
    result = module(image="Not an image")
    assert result["failed"] and result["msg"].startswith("image: 'Not an image'") and "Example" in result["msg"]
    assert cluster.calls == []


def test_module_needs_user_and_password_together(cluster: Fakes) -> None:
    result = module(cache_password=None)
    assert result["failed"] and "cache_password" in result["msg"] and cluster.calls == []


def test_module_without_user(cluster: Fakes) -> None:
    assert "replicas" in module(cache_username=None, cache_password=None)
    assert cluster.calls[3][-2:] == (None, None)


def test_module_adds_ca_to_the_usual_ones(
    cluster: Fakes, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    usual, own = tmp_path / "usual.pem", tmp_path / "own.pem"
    usual.write_text("usual")
    own.write_text("own")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(usual))
    paths, texts = [], []

    def ask(*arguments: Any) -> str:
        paths.append(pathlib.Path(arguments[5]))
        texts.append(paths[-1].read_text())
        return DIGEST

    monkeypatch.setattr(_upstream, "fetch_manifest", ask)
    module(ca_path=str(own))
    assert texts == ["usual\nown\n"] * 2
    assert not any(path.exists() for path in paths) and usual.exists() and own.exists()


def test_module_missing_ca(cluster: Fakes, tmp_path: pathlib.Path) -> None:
    result = module(ca_path=str(tmp_path / "absent.pem"))
    assert result["failed"] and "absent.pem" in result["msg"]
