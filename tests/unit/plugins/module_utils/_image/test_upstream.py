# SPDX-License-Identifier: GPL-3.0-or-later
"""upstream.fetch_manifest against an HTTPS server on 127.0.0.1."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import json
import pathlib
import socket
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import upstream as _upstream
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.http_server import HttpServer, QuietHandler

USER, SECRET, TOKEN = "_dcgcr_token", "ya29.the-access-token", "the-registry-token"
BASIC = "Basic " + base64.b64encode(f"{USER}:{SECRET}".encode()).decode()
MANIFEST = b'{"schemaVersion": 2}'
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()


class Asked(NamedTuple):
    path: str
    query: dict[str, list[str]]
    authorization: str | None
    accept: str | None


class Upstream(HttpServer):
    """Answers by path. By default, C(/v2/) returns a challenge for the server's own C(/token)."""

    def __init__(self, certificate: pathlib.Path) -> None:
        self.asked: list[Asked] = []
        self.bundle = str(certificate)
        upstream = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                authorization, accept = self.headers.get("Authorization"), self.headers.get("Accept")
                upstream.asked.append(Asked(path, urllib.parse.parse_qs(query), authorization, accept))
                status, headers, body = upstream.answers.get(path, (404, {}, b"no such path"))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        super().__init__(Handler, (certificate, certificate))
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {
            "/token": (200, {}, json.dumps({"token": TOKEN}).encode()),
            "/v2/p/r/i/manifests/1.0": (200, {}, MANIFEST),
        }
        self.challenge(f'Bearer realm="https://{self.host}/token",service="{self.host}"')

    def challenge(self, header: str | None) -> None:
        self.answers["/v2/"] = (401, {"WWW-Authenticate": header} if header else {}, b"")

    def fetch(self) -> str:
        return _upstream.fetch_manifest(self.host, "p/r/i", "1.0", USER, SECRET, self.bundle)

    def error(self) -> str:
        with pytest.raises(_upstream.UpstreamError) as error:
            self.fetch()
        assert not any(secret in str(error.value) for secret in (SECRET, TOKEN, BASIC.split()[1]))
        return str(error.value)

    def paths(self) -> list[str]:
        return [one.path for one in self.asked]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "upstream.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def upstream(certificate: pathlib.Path) -> Iterator[Upstream]:
    server = Upstream(certificate)
    yield server
    server.close()


def test_challenge_with_service(upstream: Upstream) -> None:
    assert upstream.fetch() == DIGEST
    assert upstream.paths() == ["/v2/", "/token", "/v2/p/r/i/manifests/1.0"]
    assert upstream.asked[1].query == {"scope": ["repository:p/r/i:pull"], "service": [upstream.host]}


def test_challenge_without_service(upstream: Upstream) -> None:
    upstream.challenge(f'bearer realm="https://{upstream.host}/token"')
    assert upstream.fetch() == DIGEST
    assert upstream.asked[1].query == {"scope": ["repository:p/r/i:pull"]}


def test_basic_user_goes_to_the_token_endpoint_only(upstream: Upstream) -> None:
    upstream.fetch()
    assert [one.authorization for one in upstream.asked] == [None, BASIC, f"Bearer {TOKEN}"]
    assert not any(SECRET in json.dumps(one.query) for one in upstream.asked)


def test_accepts_indexes_and_manifests_of_both_kinds(upstream: Upstream) -> None:
    upstream.fetch()
    accept = upstream.asked[-1].accept or ""
    for kind in (
        "oci.image.index",
        "oci.image.manifest",
        "docker.distribution.manifest.list",
        "docker.distribution.manifest",
    ):
        assert f"application/vnd.{kind}.v" in accept


def test_access_token_instead_of_token(upstream: Upstream) -> None:
    upstream.answers["/token"] = (200, {}, json.dumps({"access_token": TOKEN}).encode())
    assert upstream.fetch() == DIGEST
    assert upstream.asked[-1].authorization == f"Bearer {TOKEN}"


def test_basic_challenge(upstream: Upstream) -> None:
    upstream.challenge('Basic realm="x"')
    assert upstream.fetch() == DIGEST
    assert [(one.path, one.authorization) for one in upstream.asked] == [
        ("/v2/", None),
        ("/v2/p/r/i/manifests/1.0", BASIC),
    ]


def test_no_challenge(upstream: Upstream) -> None:
    upstream.answers["/v2/"] = (200, {}, b"{}")
    assert upstream.fetch() == DIGEST
    assert [one.authorization for one in upstream.asked] == [None, None]


def errors(code: str, message: str | None) -> bytes:
    return json.dumps({"errors": [{"code": code, **({"message": message} if message else {})}]}).encode()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (errors("DENIED", "Permission 'x.get' denied"), "HTTP 403: Permission 'x.get' denied"),
        (errors("DENIED", None), "HTTP 403: DENIED"),
        (b"  plain words\n", "HTTP 403: plain words"),
        (b'{"errors": []}', 'HTTP 403: {"errors": []}'),
        (b'{"errors": ["x"]}', 'HTTP 403: {"errors": ["x"]}'),
        (b"[1]", "HTTP 403: [1]"),
        (b"\xff" + b"x" * 500, "HTTP 403: \ufffd" + "x" * 299),
        (b"", "HTTP 403: "),
    ],
)
@pytest.mark.parametrize("path", ["/token", "/v2/p/r/i/manifests/1.0"])
def test_errors_contain_the_upstreams_message(upstream: Upstream, path: str, body: bytes, expected: str) -> None:
    upstream.answers[path] = (403, {}, body)
    assert upstream.error() == expected
    assert upstream.paths()[-1] == path


@pytest.mark.parametrize("path", ["/token", "/v2/p/r/i/manifests/1.0"])
@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_only_a_missing_manifest_is_a_separate_error(upstream: Upstream, path: str, status: int) -> None:
    upstream.answers[path] = (status, {}, errors("X", "words"))
    with pytest.raises(_upstream.UpstreamError, match=f"HTTP {status}: words") as error:
        upstream.fetch()
    assert isinstance(error.value, _upstream.NotFoundError) == (status == 404)


@pytest.mark.parametrize("body", [b"not JSON", b"{}", b'{"token": ""}', b'["the-registry-token"]', b'"x"', b"null"])
def test_token_endpoint_without_token(upstream: Upstream, body: bytes) -> None:
    upstream.answers["/token"] = (200, {}, body)
    assert f"no usable answer from https://{upstream.host}/v2/" in upstream.error()
    assert upstream.paths() == ["/v2/", "/token"]


def test_challenge_without_realm(upstream: Upstream) -> None:
    upstream.challenge('Bearer service="x"')
    assert "no usable answer" in upstream.error() and upstream.paths() == ["/v2/"]


def test_connection_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(_upstream.UpstreamError) as error:
            _upstream.fetch_manifest(host, "p/r/i", "1.0", USER, SECRET)
    assert f"no usable answer from https://{host}/v2/" in str(error.value) and "refused" in str(error.value)
    assert SECRET not in str(error.value)


def test_untrusted_certificate(upstream: Upstream) -> None:
    with pytest.raises(_upstream.UpstreamError, match="(?i)certificate"):
        _upstream.fetch_manifest(upstream.host, "p/r/i", "1.0", USER, SECRET)
    assert upstream.asked == []


def test_bundle_overrides_the_environment(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    import certifi

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    assert upstream.fetch() == DIGEST
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", upstream.bundle)
    assert _upstream.fetch_manifest(upstream.host, "p/r/i", "1.0", USER, SECRET) == DIGEST


def test_netrc_does_not_replace_the_token(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    upstream.fetch()
    assert [one.authorization for one in upstream.asked] == [None, BASIC, f"Bearer {TOKEN}"]
