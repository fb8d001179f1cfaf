# SPDX-License-Identifier: GPL-3.0-or-later
"""The session of _gcp: credentials, and what goes wrong below HTTP, over real sockets."""

from __future__ import annotations

import json
import pathlib
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import google.auth.exceptions
import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils import _gcp
from requests.adapters import HTTPAdapter

from google_standin import tls
from tests.unit.plugins.google_wire import Wire
from tests.unit.plugins.module_runner import run
from tests.unit.sandbox.google.harness import IAM

POOL = {"project": "demo", "pool_id": "cache"}
MODULE = "gcp_iam_workload_identity_pool"
ROLE = {"role": "roles/x", "member": "user:a@example.com"}
# Each module, options of it, and what its errors name.
EVERY = [
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
        {"resource": "projects/p/locations/l/repositories/r", **ROLE},
        "IAM policy of projects/p/locations/l/repositories/r",
    ),
    (f"{MODULE}_info", {"project": "demo"}, "projects/demo/locations/global/workloadIdentityPools"),
    (f"{MODULE}_provider_info", POOL, "projects/demo/locations/global/workloadIdentityPools/cache/providers"),
    (
        "gcp_artifactregistry_repository",
        {"project": "demo", "location": "us", "repository_id": "r"},
        "projects/demo/locations/us/repositories/r",
    ),
    (
        "gcp_artifactregistry_repository_info",
        {"project": "demo", "location": "us"},
        "projects/demo/locations/us/repositories",
    ),
    ("gcp_project_services", {"project": "demo", "services": ["iam.googleapis.com"]}, "services of project demo"),
    (
        "gcp_iam_service_account",
        {"project": "demo", "account_id": "reader"},
        "projects/demo/serviceAccounts/reader@demo.iam.gserviceaccount.com",
    ),
]


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
@pytest.mark.parametrize("fault", [(429, b"{}"), (502, b"<html>"), (503, b"{}"), (504, b"{}"), (0, b"")])
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
    with pytest.raises(_gcp.GcpError, match=r"^x: no answer from https://iam\.googleapis\.com/v1/x: .*HTTPS_PROXY"):
        client().request("POST", "https://iam.googleapis.com/v1/x", "x", body={})


@pytest.mark.parametrize(("module", "options", "what"), EVERY)
def test_a_refused_connection(server: Server, module: str, options: dict[str, Any], what: str) -> None:
    server.close()
    result = run(module, auth_kind="accesstoken", access_token="secret-token", **options)
    assert result["failed"] and result["msg"].startswith(f"{what}: no answer from https://")
    assert "refused" in result["msg"] and "HTTPS_PROXY" in result["msg"] and "REQUESTS_CA_BUNDLE" in result["msg"]
    assert "object at" not in result["msg"] and "Max retries" not in result["msg"]
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
    server.answers = [(500, b"Bad day")]
    with pytest.raises(_gcp.GcpError, match="^x: HTTP 500: Bad day$"):
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


def test_every_module_is_in_the_table() -> None:
    modules = pathlib.Path(_gcp.__file__).parents[1] / "modules"
    assert {path.stem for path in modules.glob("gcp_*.py")} == {module for module, _options, _what in EVERY}


@pytest.mark.parametrize(("module", "options", "what"), EVERY)
def test_every_module_refuses_a_token_without_a_way_round_it(
    wire: Wire, module: str, options: dict[str, Any], what: str
) -> None:
    result = wire.run(module, access_token="expired-token", **options)
    assert result["msg"].startswith(f"{what}: HTTP 401: Request had invalid authentication credentials")
    assert "Check auth_kind" in result["msg"] and len(wire.requests) == 1 and wire.sessions == 1
    assert "expired-token" not in json.dumps(result)


@pytest.mark.parametrize(("module", "options", "what"), EVERY)
def test_a_token_of_another_project(wire: Wire, module: str, options: dict[str, Any], what: str) -> None:
    options = {name: value.replace("/p/", "/other/") if name == "resource" else value for name, value in options.items()}
    message = wire.run(module, **{**options, **({} if "resource" in options else {"project": "other"})})["msg"]
    assert "HTTP 403: Permission '" in message and ("projects/other" in message or "project other" in message)
    assert "(Check the project, and grant the permission to the identity that runs this module.)" in message
    assert not [request for request in wire.writes() if not request.url.endswith(":getIamPolicy")]


@pytest.mark.parametrize(
    ("module", "options", "api"),
    [(module, options, "iam") for module, options, _what in EVERY if "_iam_" in module and module != "gcp_iam_member"]
    + [(module, options, "artifactregistry") for module, options, _what in EVERY if "artifactregistry" in module]
    + [
        ("gcp_iam_member", {"resource": "projects/demo", **ROLE}, "cloudresourcemanager"),
        ("gcp_iam_member", {"resource": "projects/demo/serviceAccounts/a@b.c", **ROLE}, "iam"),
        ("gcp_iam_member", {"resource": "projects/demo/locations/us/repositories/r", **ROLE}, "artifactregistry"),
    ],
)
def test_an_api_that_is_not_enabled(wire: Wire, module: str, options: dict[str, Any], api: str) -> None:
    service = f"{api}.googleapis.com"
    url = f"https://serviceusage.googleapis.com/v1/projects/demo/services/{service}:disable"
    wire.google.done(wire.google.call("POST", url, json={}))
    message = wire.run(module, **options)["msg"]
    assert f"(Enable {service} in projects/42 with module gcp_project_services; if that was just done" in message
    wire.run("gcp_project_services", project="demo", services=[service])
    assert "Enable" not in wire.run(module, check=True, **options).get("msg", "")


def test_service_usage_itself_is_not_enabled(wire: Wire) -> None:
    info = {"reason": "SERVICE_DISABLED", "metadata": {"service": "serviceusage.googleapis.com"}}
    wire.answer("GET", ":batchGet", 403, {"error": {"code": 403, "message": "Disabled.", "details": [info]}})
    message = wire.run("gcp_project_services", project="demo", services=["iam.googleapis.com"])["msg"]
    assert message.endswith("gcloud services enable serviceusage.googleapis.com.)")


def test_a_token_of_too_narrow_a_scope(wire: Wire) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}
    details = [{"@type": "type.googleapis.com/google.rpc.Help"}, info]
    wire.answer("GET", "/cache", 403, {"error": {"code": 403, "message": "Insufficient scopes.", "details": details}})
    message = wire.run(MODULE, **POOL)["msg"]
    assert message.endswith("scopes. (Leave scopes unset, or pass an access_token of scope cloud-platform.)")


@pytest.fixture
def tls_server(tmp_path: pathlib.Path) -> Iterator[str]:
    """The address of a server whose CA nobody knows; C(ca.pem) lies beside it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"name": "x"}')

        def log_message(self, *_arguments: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_arguments: Any) -> None:
            pass

    http = Quiet(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls.ensure(tmp_path, "127.0.0.1"))
    http.socket = context.wrap_socket(http.socket, server_side=True)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield f"https://localhost:{http.server_port}"
    http.shutdown()
    http.server_close()


def test_a_proxy_with_a_ca_of_its_own(tls_server: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(_gcp.GcpError) as caught:
        client().request("GET", f"{tls_server}/v1/x", "x")
    message = str(caught.value)
    assert message.startswith(f"x: no answer from {tls_server}/v1/x: [SSL: CERTIFICATE_VERIFY_FAILED]")
    assert message.endswith(f". {_gcp._CERTIFICATE_WAY_OUT}") and "REQUESTS_CA_BUNDLE" in _gcp._CERTIFICATE_WAY_OUT
    assert not pauses, "a certificate does not get better"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    assert client().request("GET", f"{tls_server}/v1/x", "x") == {"name": "x"}


def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self.send_error(403, "Forbidden")

        def log_message(self, *_arguments: Any) -> None:
            pass

    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_port}")
    refused = r"^x: no answer from https://iam\.googleapis\.com/v1/x: through the proxy: .*{}.*Check the network, HTTPS_PROXY"
    with pytest.raises(_gcp.GcpError, match=refused.format("403 Forbidden")):
        client().request("GET", f"{IAM}/x", "x")
    proxy.shutdown()
    proxy.server_close()
    with pytest.raises(_gcp.GcpError, match=refused.format("refused")):
        client().request("GET", f"{IAM}/x", "x")


def test_no_address_in_memory_is_shown() -> None:
    error = OSError("<urllib3.connection.HTTPSConnection object at 0x7f00aa>: Failed to establish a new connection")
    assert _gcp._cause(error).startswith("Failed to establish a new connection. Check the network")


def test_fields_are_compared_whole() -> None:
    current = {"a": {"x": "1", "y": "2"}, "b": "", "c": False, "d": "kept", "e": {"x": ""}}
    assert _gcp.differing(current, {"a": {"x": "1"}, "b": "", "c": False}) == ["a"]
    assert _gcp.differing(current, {"a": {"x": "1", "y": "2", "z": ""}, "d": ""}) == ["a", "d"]
    assert _gcp.differing(current, {"e": {}}) == ["e"] and _gcp.differing({}, {"e": {}, "b": "", "c": False}) == []
