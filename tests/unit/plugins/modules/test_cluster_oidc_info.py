# SPDX-License-Identifier: GPL-3.0-or-later
"""Module cluster_oidc_info against an API server in this process."""

from __future__ import annotations

import json
import pathlib
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes import client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import ReadTimeoutError

from tests.module_runner import run
from tests.unit.plugins.kubernetes_api import ApiServer, Refusal

DISCOVERY, JWKS, IDENTITY = "/.well-known/openid-configuration", "/openid/v1/jwks", "/api/v1/namespaces/kube-system"
KEYS = {"keys": [{"kty": "RSA", "kid": "one", "n": "x", "e": "AQAB"}]}
NAMESPACE = {"metadata": {"name": "kube-system", "uid": "0b1f7a3e"}}
ISSUER = {"issuer": "https://issuer.example.com", "jwks_uri": f"https://10.0.0.1{JWKS}"}


@pytest.fixture
def server(server: ApiServer) -> ApiServer:
    server.namespace("kube-system")
    server.objects["namespaces", "", "kube-system"]["metadata"]["uid"] = "0b1f7a3e"
    server.plain.update({DISCOVERY: ISSUER, JWKS: KEYS})

    def hook(_method: str, path: str) -> None:
        # Like the API server: a JWKS does not have the type application/json.
        if path == JWKS and "*/*" not in server.seen[-1][3]:
            raise Refusal(406, "not acceptable")

    server.hook = hook
    return server


def read(server: ApiServer, check: bool = False) -> dict[str, Any]:
    return run("cluster_oidc_info", check=check, host=server.url, api_key="cluster-token")


def refuse(server: ApiServer, path: str, status: int, message: str, body: Any = None) -> None:
    """Answer requests for a path with an error."""
    refusal = Refusal(status, message)
    refusal.body = body or refusal.body

    def hook(_method: str, asked: str) -> None:
        if asked == path:
            raise refusal

    server.hook = hook


@pytest.mark.parametrize("check", [False, True])
def test_reads_through_the_api_server(server: ApiServer, check: bool) -> None:
    result = read(server, check)
    assert {key: result[key] for key in ("changed", "issuer", "jwks_uri", "jwks", "uid")} == {
        "changed": False,
        **ISSUER,
        "jwks": KEYS,
        "uid": "0b1f7a3e",
    }
    paths = (DISCOVERY, JWKS, IDENTITY)
    asked = [request[:2] for request in server.seen if request[1] in paths]
    assert asked == [("GET", path) for path in paths] and server.tokens == {"Bearer cluster-token"}


@pytest.mark.parametrize(
    ("path", "status", "message", "body", "words"),
    [
        (JWKS, 403, 'User "x" cannot get path', None, 'HTTP 403: User "x" cannot get path. Bind cluster role'),
        (DISCOVERY, 404, "", b"not found", "HTTP 404: Not Found. The API server has no service account issuer"),
        (DISCOVERY, 401, "Unauthorized", None, "HTTP 401: Unauthorized."),
    ],
)
def test_refusal(server: ApiServer, path: str, status: int, message: str, body: Any, words: str) -> None:
    refuse(server, path, status, message, body)
    result = read(server)
    assert result["failed"] and words in result["msg"]
    assert status != 401 or "kubeconfig" in result["msg"]
    assert "cluster-token" not in json.dumps(result)


@pytest.mark.parametrize("answer", [b"<html>", {}, []])
def test_an_unusable_answer(server: ApiServer, answer: Any) -> None:
    server.plain[DISCOVERY] = answer
    message = read(server)["msg"]
    assert f"No usable answer from {server.url}" in message and "KUBECONFIG" in message


def test_no_answer_names_the_url(server: ApiServer) -> None:
    server.close()
    message = read(server)["msg"]
    assert f"{server.url}/" in message and "refused" in message and "KUBECONFIG" in message


def test_no_kubeconfig(server: ApiServer, tmp_path: pathlib.Path) -> None:
    message = run("cluster_oidc_info", kubeconfig=str(tmp_path / "missing"))["msg"]
    assert message.startswith("Cannot connect to the cluster:") and "Set kubeconfig and context" in message
    assert ". Set" in message and ".." not in message


@pytest.mark.parametrize("content", [b"a: [b\n", b"just text\n", b"current-context: x\ncontexts: 5\n", b"\xa9\xff"])
def test_a_malformed_kubeconfig(server: ApiServer, tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "config").write_bytes(content)
    message = run("cluster_oidc_info", kubeconfig=str(tmp_path / "config"))["msg"]
    assert message.startswith("Cannot connect to the cluster: the kubeconfig is malformed (") and "Set kubeconfig and context" in message
    assert "\n" not in message and not server.seen


def test_no_configuration_at_all(server: ApiServer) -> None:
    message = run("cluster_oidc_info")["msg"]
    assert message.startswith("Cannot connect to the cluster:") and "Set kubeconfig and context, or KUBECONFIG" in message
    assert not server.seen


@pytest.mark.parametrize("path", [DISCOVERY, JWKS])
def test_forbidden_names_the_server_and_the_missing_role(server: ApiServer, path: str) -> None:
    refuse(server, path, 403, f'User "x" cannot get path "{path}"')
    message = read(server)["msg"]
    assert message.startswith(f'{server.url} does not return its service account issuer: HTTP 403: User "x" cannot get path "{path}".')
    assert "Bind cluster role system:service-account-issuer-discovery" in message and "Example: kubectl create " in message


def test_the_permission_for_the_clusters_identity(server: ApiServer) -> None:
    refuse(server, IDENTITY, 403, 'namespaces "kube-system" is forbidden')
    message = read(server)["msg"]
    assert message.startswith(f'{server.url} does not return its identity: HTTP 403: namespaces "kube-system" is forbidden.')
    assert "Example: " in message and "{apiGroups: [''], resources: [namespaces], resourceNames: [kube-system], verbs: [get]}" in message


class Raw:
    """A Kubernetes client with one answer or one error."""

    def __init__(self, answer: Any) -> None:
        self.client, self.configuration = self, SimpleNamespace(host="https://10.0.0.1:6443", connection_pool_maxsize=4)
        self.answer, self.asked = answer, []

    def request(self, method: str, path: str, body: Any, **options: Any) -> Any:
        self.asked.append((method, path, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(data=json.dumps(self.answer[path]))


def fake(monkeypatch: pytest.MonkeyPatch, answer: Any) -> Raw:
    raw = Raw(answer)
    monkeypatch.setattr(client, "get_api_client", lambda _module: raw)
    return raw


def test_every_request_has_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = fake(monkeypatch, {DISCOVERY: ISSUER, JWKS: KEYS, IDENTITY: NAMESPACE})
    assert run("cluster_oidc_info")["jwks"] == KEYS
    assert [(method, path) for method, path, _options in raw.asked] == [("get", DISCOVERY), ("get", JWKS), ("get", IDENTITY)]
    assert {options["_request_timeout"] for _method, _path, options in raw.asked} == {(10, 60)}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        # The client's error after a TLS failure.
        (ApiException(status=0, reason="SSLError\ncertificate verify failed"), "SSLError\ncertificate verify failed."),
        (ReadTimeoutError(None, DISCOVERY, "Read timed out."), "Read timed out."),
        (OSError("Network is unreachable"), "Network is unreachable."),
    ],
)
def test_errors_below_http(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    fake(monkeypatch, error)
    result = run("cluster_oidc_info")
    assert result["failed"] and words in result["msg"] and "HTTP 0" not in result["msg"]
    assert "Set kubeconfig and context, or KUBECONFIG" in result["msg"] and "Example: kubeconfig: " in result["msg"]
