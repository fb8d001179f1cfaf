# SPDX-License-Identifier: GPL-3.0-or-later
"""Module cluster_oidc_info against an API server of two paths."""

from __future__ import annotations

import json
import pathlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.modules import cluster_oidc_info
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import ReadTimeoutError

from tests.unit.plugins.module_runner import run

DISCOVERY, JWKS, IDENTITY = "/.well-known/openid-configuration", "/openid/v1/jwks", "/api/v1/namespaces/kube-system"
KEYS = {"keys": [{"kty": "RSA", "kid": "one", "n": "x", "e": "AQAB"}]}
NAMESPACE = {"metadata": {"name": "kube-system", "uid": "0b1f7a3e"}}
ISSUER = {"issuer": "https://issuer.example.com", "jwks_uri": f"https://10.0.0.1{JWKS}"}


class ApiServer:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str | None]] = []
        self.answers: dict[str, tuple[int, Any]] = {
            "/version": (200, {"major": "1", "minor": "34"}),
            "/api/v1": (200, {"kind": "APIResourceList", "groupVersion": "v1", "resources": []}),
            "/apis": (200, {"kind": "APIGroupList", "groups": []}),
            DISCOVERY: (200, ISSUER),
            JWKS: (200, KEYS),
            IDENTITY: (200, NAMESPACE),
        }
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.seen.append((self.command, self.path, self.headers.get("Authorization")))
                status, body = outer.answers.get(self.path, (404, {}))
                # As the API server does: a JWKS is no application/json.
                if self.path == JWKS and "*/*" not in self.headers["Accept"]:
                    status, body = 406, {}
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def read(self, check: bool = False) -> dict[str, Any]:
        return run("cluster_oidc_info", check=check, host=self.url, api_key="cluster-token")


@pytest.fixture
def server(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # kubernetes.core keeps what it discovers there
    monkeypatch.setenv("HOME", str(tmp_path))
    running = ApiServer()
    yield running
    running.close()


@pytest.mark.parametrize("check", [False, True])
def test_reads_through_the_api_server(server: ApiServer, check: bool) -> None:
    result = server.read(check)
    assert {key: result[key] for key in ("changed", "issuer", "jwks_uri", "jwks", "uid")} == {
        "changed": False,
        **ISSUER,
        "jwks": KEYS,
        "uid": "0b1f7a3e",
    }
    paths = (DISCOVERY, JWKS, IDENTITY)
    asked = [request for request in server.seen if request[1] in paths]
    assert asked == [("GET", path, "Bearer cluster-token") for path in paths]


@pytest.mark.parametrize(
    ("path", "answer", "words"),
    [
        (JWKS, (403, {"message": 'User "x" cannot get path'}), 'HTTP 403: User "x" cannot get path. Bind the cluster role'),
        (DISCOVERY, (404, b"not found"), "HTTP 404: Not Found. The API server has no service-account issuer"),
        (DISCOVERY, (401, {"message": "Unauthorized"}), "HTTP 401: Unauthorized. Set kubeconfig"),
        (DISCOVERY, (200, b"<html>"), "No usable answer from the API server"),
        (DISCOVERY, (200, {}), "No usable answer from the API server"),
    ],
)
def test_refusal(server: ApiServer, path: str, answer: tuple[int, Any], words: str) -> None:
    server.answers[path] = answer
    result = server.read()
    assert result["failed"] and words in result["msg"]
    assert "cluster-token" not in json.dumps(result)


def test_no_answer_names_the_url(server: ApiServer) -> None:
    server.close()
    message = server.read()["msg"]
    assert f"{server.url}/" in message and "refused" in message and "KUBECONFIG" in message


def test_no_kubeconfig(server: ApiServer, tmp_path: pathlib.Path) -> None:
    message = run("cluster_oidc_info", kubeconfig=str(tmp_path / "missing"))["msg"]
    assert message.startswith("No way to the cluster:") and "Set kubeconfig and context" in message
    assert ". Set" in message and ".." not in message


@pytest.mark.parametrize("content", [b"a: [b\n", b"just text\n", b"current-context: x\ncontexts: 5\n", b"\xa9\xff"])
def test_a_malformed_kubeconfig(server: ApiServer, tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "config").write_bytes(content)
    message = run("cluster_oidc_info", kubeconfig=str(tmp_path / "config"))["msg"]
    assert message.startswith("No way to the cluster: the kubeconfig is malformed (") and "Set kubeconfig and context" in message
    assert "\n" not in message and not server.seen


def test_no_configuration_at_all(server: ApiServer) -> None:
    message = run("cluster_oidc_info")["msg"]
    assert message.startswith("No way to the cluster:") and "Set kubeconfig and context, or KUBECONFIG" in message
    assert not server.seen


@pytest.mark.parametrize("path", [DISCOVERY, JWKS])
def test_forbidden_names_the_server_and_the_role_that_lacks(server: ApiServer, path: str) -> None:
    server.answers[path] = (403, {"kind": "Status", "message": f'User "x" cannot get path "{path}"'})
    assert server.read()["msg"] == (
        f'{server.url} does not tell its service-account issuer: HTTP 403: User "x" cannot get path "{path}".'
        " Bind the cluster role system:service-account-issuer-discovery to the identity that runs this module."
    )


def test_the_right_that_the_clusters_identity_needs(server: ApiServer) -> None:
    server.answers[IDENTITY] = (403, {"kind": "Status", "message": 'namespaces "kube-system" is forbidden'})
    assert server.read()["msg"] == (
        f'{server.url} does not tell its identity: HTTP 403: namespaces "kube-system" is forbidden.'
        " Grant get on the namespace kube-system, for example by a ClusterRole with"
        " {apiGroups: [''], resources: [namespaces], resourceNames: [kube-system], verbs: [get]}."
    )


class Client:
    """A Kubernetes client that gives one answer or one error."""

    def __init__(self, answer: Any) -> None:
        self.client, self.configuration = self, SimpleNamespace(host="https://10.0.0.1:6443")
        self.answer, self.asked = answer, []

    def request(self, method: str, path: str, **options: Any) -> Any:
        self.asked.append((method, path, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(data=json.dumps(self.answer[path]))


def fake(monkeypatch: pytest.MonkeyPatch, answer: Any) -> Client:
    client = Client(answer)
    monkeypatch.setattr(cluster_oidc_info, "get_api_client", lambda _module: client)
    return client


def test_no_request_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    client = fake(monkeypatch, {DISCOVERY: ISSUER, JWKS: KEYS, IDENTITY: NAMESPACE})
    assert run("cluster_oidc_info")["jwks"] == KEYS
    assert [(method, path) for method, path, _options in client.asked] == [("get", DISCOVERY), ("get", JWKS), ("get", IDENTITY)]
    assert {options["_request_timeout"] for _method, _path, options in client.asked} == {(10, 60)}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        # What the client makes of a failure of TLS.
        (ApiException(status=0, reason="SSLError\ncertificate verify failed"), "issuer: SSLError\ncertificate verify failed."),
        (ReadTimeoutError(None, DISCOVERY, "Read timed out."), "Read timed out."),
        (OSError("Network is unreachable"), "Network is unreachable."),
    ],
)
def test_what_goes_wrong_below_http(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    fake(monkeypatch, error)
    result = run("cluster_oidc_info")
    assert result["failed"] and words in result["msg"] and "HTTP 0" not in result["msg"]
    assert result["msg"].endswith("Set kubeconfig and context, or KUBECONFIG, to a cluster that answers.")
