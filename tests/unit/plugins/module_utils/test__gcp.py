# SPDX-License-Identifier: GPL-3.0-or-later
"""The session of _gcp: credentials, and what goes wrong below HTTP, over real sockets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import google.auth.exceptions
import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils import _gcp
from google_wire import Wire
from module_runner import run
from requests.adapters import HTTPAdapter

POOL = {"project": "demo", "pool_id": "cache"}
MODULE = "gcp_iam_workload_identity_pool"


class Server:
    """Gives the answers it is told, one after another, the last for ever; reached as any https host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.seen: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                outer.seen.append(self.command)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, body = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                if status == 0:  # hangs up
                    self.close_connection = True
                    return
                if status == -1:  # never answers
                    outer.release.wait(10)
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Retry-After", "3600")
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_DELETE = answer

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.release = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        address = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

        class Loopback(HTTPAdapter):
            def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
                request.url = address + request.path_url
                return super().send(request, *arguments, **options)

        monkeypatch.setattr(_gcp, "HTTPAdapter", Loopback)
        self.pauses: list[float] = []
        monkeypatch.setattr(time, "sleep", self.pauses.append)

    def close(self) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server(monkeypatch)
    yield running
    running.close()


def client(**params: Any) -> _gcp.GcpClient:
    def fail_json(msg: str) -> None:
        raise AssertionError(msg)

    options = {**dict.fromkeys(_gcp.argument_spec()), "auth_kind": "accesstoken", "access_token": "token", **params}
    return _gcp.GcpClient(SimpleNamespace(params=options, fail_json=fail_json))


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize("fault", [(429, b"{}"), (503, b"{}"), (0, b"")])
def test_what_passes_is_tried_again(server: Server, method: str, fault: tuple[int, bytes]) -> None:
    server.answers = [fault, fault, (200, b'{"name": "x"}')]
    assert client().request(method, "https://iam.googleapis.com/v1/x", "x") == {"name": "x"}
    assert server.seen == [method] * 3 and sum(server.pauses) < 10


def test_retries_are_bounded_and_no_server_sets_the_pause(server: Server) -> None:
    server.answers = [(429, json.dumps({"error": {"message": "Quota exceeded"}}).encode())]
    with pytest.raises(_gcp.GcpError, match=r"^x: HTTP 429: Quota exceeded \(Google's quota") as caught:
        client().request("GET", "https://iam.googleapis.com/v1/x", "x")
    assert caught.value.status == 429 and len(server.seen) == 5 and sum(server.pauses) < 10


@pytest.mark.parametrize("fault", [(503, b"{}"), (0, b"")])
def test_a_post_is_sent_once(server: Server, fault: tuple[int, bytes]) -> None:
    server.answers = [fault]
    with pytest.raises(_gcp.GcpError):
        client().request("POST", "https://iam.googleapis.com/v1/x", "x", body={})
    assert server.seen == ["POST"]


def test_a_server_that_hangs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gcp, "TIMEOUT", (1, 0.1))
    server.answers = [(-1, b"")]
    with pytest.raises(_gcp.GcpError, match=r"^x: no answer from https://iam\.googleapis\.com/v1/x .*HTTPS_PROXY"):
        client().request("POST", "https://iam.googleapis.com/v1/x", "x", body={})


@pytest.mark.parametrize(
    ("module", "options", "what"),
    [
        (MODULE, POOL, "projects/demo/locations/global/workloadIdentityPools/cache"),
        (
            f"{MODULE}_provider",
            {
                **POOL,
                "provider_id": "kubernetes",
                "attribute_mapping": {"google.subject": "assertion.sub"},
                "oidc": {"issuer_uri": "https://issuer.example.com"},
            },
            "projects/demo/locations/global/workloadIdentityPools/cache/providers/kubernetes",
        ),
        (
            "gcp_iam_member",
            {"resource": "projects/p/locations/l/repositories/r", "role": "roles/x", "member": "user:a@example.com"},
            "IAM policy of projects/p/locations/l/repositories/r",
        ),
    ],
)
def test_a_refused_connection(server: Server, module: str, options: dict[str, Any], what: str) -> None:
    server.close()
    result = run(module, auth_kind="accesstoken", access_token="secret-token", **options)
    assert result["failed"] and result["msg"].startswith(f"{what}: no answer from https://")
    assert "refused" in result["msg"] and "HTTPS_PROXY" in result["msg"] and "REQUESTS_CA_BUNDLE" in result["msg"]
    assert "secret-token" not in json.dumps(result) and sum(server.pauses) < 10


@pytest.mark.parametrize(("status", "way_out"), sorted(_gcp._WAY_OUT.items()))
def test_an_error_tells_a_way_out(wire: Wire, status: int, way_out: str) -> None:
    wire.answer("POST", "workloadIdentityPoolId", status, {"error": {"code": status, "message": "Google's words"}})
    message = wire.run(MODULE, **POOL)["msg"]
    assert message.endswith(f"/workloadIdentityPools/cache: HTTP {status}: Google's words ({way_out}.)")


@pytest.mark.parametrize("body", [b"", b"<html>Log in</html>", b"[]"])
def test_an_answer_that_is_not_googles(server: Server, body: bytes) -> None:
    server.answers = [(200, body)]
    with pytest.raises(_gcp.GcpError, match="HTTP 200 without a JSON object.*HTTPS_PROXY"):
        client().request("GET", "https://iam.googleapis.com/v1/x", "x")


def test_an_error_that_is_no_json(server: Server) -> None:
    server.answers = [(502, b"Bad Gateway")]
    with pytest.raises(_gcp.GcpError, match="^x: HTTP 502: Bad Gateway$"):
        client().request("GET", "https://iam.googleapis.com/v1/x", "x")


def test_expired_access_token(wire: Wire) -> None:
    result = wire.run(MODULE, **POOL, access_token="expired-token")
    assert "workloadIdentityPools/cache: HTTP 401: Request had invalid authentication credentials" in result["msg"]
    assert "Check auth_kind" in result["msg"] and len(wire.requests) == 1
    assert "expired-token" not in json.dumps(result)


def test_one_session_token_time_out_and_user_agent(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCP_ENV_TYPE", "awx")
    wire.run(MODULE, **POOL)
    assert wire.sessions == 1 and len(wire.requests) == 5
    assert {request.timeout for request in wire.requests} == {(10, 60)}
    assert {request.headers["User-Agent"] for request in wire.requests} == {"Google-Ansible-MM-registry_cache-awx"}


def test_credentials_of_another_kind_in_the_environment(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GCP_SERVICE_ACCOUNT_FILE", "GCP_SERVICE_ACCOUNT_CONTENTS", "GCP_SERVICE_ACCOUNT_EMAIL"):
        monkeypatch.setenv(name, "{}")
    assert wire.run(MODULE, **POOL)["changed"]


def test_access_token_from_the_environment(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCP_AUTH_KIND", "accesstoken")
    monkeypatch.setenv("GCP_ACCESS_TOKEN", wire.google.operator)
    assert run(MODULE, **POOL)["changed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"auth_kind": "accesstoken", "access_token": None}, "auth_kind accesstoken needs access_token"),
        ({"auth_kind": "serviceaccount"}, "needs service_account_file or service_account_contents"),
        ({"auth_kind": "serviceaccount", "service_account_file": "/nowhere.json"}, "service_account_file at /nowhere.json"),
        ({"auth_kind": "serviceaccount", "service_account_contents": "{}"}, "No Google credential of auth_kind service"),
        ({"auth_kind": "key"}, "auth_kind"),
    ],
)
def test_missing_credential(wire: Wire, options: dict[str, Any], words: str) -> None:
    result = wire.run(MODULE, **POOL, **options)
    assert result["failed"] and words in result["msg"] and not wire.requests


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (google.auth.exceptions.TransportError("unreachable"), r"no token.*unreachable.*HTTPS_PROXY"),
        (google.auth.exceptions.RefreshError("invalid_grant"), r"does not take the credential \(invalid_grant\)"),
    ],
)
def test_token_that_cannot_be_had(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    google_client = client()

    def fail(*_arguments: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(google_client._session.credentials, "before_request", fail)
    with pytest.raises(_gcp.GcpError, match=f"^x: .*{words}"):
        google_client.request("GET", "https://iam.googleapis.com/v1/x", "x")


def test_missing_library(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gcp, "IMPORT_ERROR", "ImportError: google.auth")
    message = wire.run(MODULE, **POOL)["msg"]
    assert "google-auth" in message and not wire.requests
