# SPDX-License-Identifier: GPL-3.0-or-later
"""The CONNECT proxy, the certificates and the files of the emulator."""

from __future__ import annotations

import asyncio
import pathlib
import ssl

import pytest

from google_emulator import connect_proxy, tls
from google_emulator.config import Config


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"echo " + await reader.read())
    writer.close()


async def _through_proxy(head: bytes, payload: bytes) -> bytes:
    target = await asyncio.start_server(_echo, "127.0.0.1", 0)
    proxy = await connect_proxy.serve("127.0.0.1", 0, target.sockets[0].getsockname()[1])
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.sockets[0].getsockname()[1])
        writer.write(head + payload)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer
    finally:
        proxy.close()
        target.close()


@pytest.mark.parametrize("target", ["sts.googleapis.com:443", "us-central1-docker.pkg.dev:443", "gcr.io:443", "eu.gcr.io:443"])
def test_the_proxy_connects_googles_names_to_the_emulator(target: str) -> None:
    head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
    answer = asyncio.run(_through_proxy(head, b"hello"))
    assert answer == b"HTTP/1.1 200 Connection established\r\n\r\necho hello"


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT example.com:443",
        "CONNECT sts.googleapis.com:80",
        "CONNECT sts.googleapis.com.example.com:443",
        "CONNECT googleapis.com:443",
        "CONNECT a.b.pkg.dev:443",
        "CONNECT mirror.gcr.io:443",
        "CONNECT 127.0.0.1:443",
        "GET http://sts.googleapis.com/",
    ],
)
def test_the_proxy_refuses_everything_else(line: str) -> None:
    answer = asyncio.run(_through_proxy(f"{line} HTTP/1.1\r\n\r\n".encode(), b""))
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n") and b"echo" not in answer
    assert b"leads to the Google emulator only" in answer


@pytest.mark.parametrize(
    ("name", "trusted"),
    [
        ("sts.googleapis.com", True),
        ("us-central1-docker.pkg.dev", True),
        ("gcr.io", True),
        ("localhost", True),
        ("127.0.0.1", True),
        ("example.com", False),
    ],
)
def test_the_certificate_serves_googles_names(tmp_path: pathlib.Path, name: str, trusted: bool) -> None:
    certificate, key = tls.ensure(tmp_path, "127.0.0.1")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT

    async def handshake() -> None:
        listener = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=server)
        async with listener:
            port = listener.sockets[0].getsockname()[1]
            _reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
            writer.close()

    if trusted:
        asyncio.run(handshake())
    else:
        with pytest.raises(ssl.SSLCertVerificationError):
            asyncio.run(handshake())


def test_the_ca_stays_and_every_key_is_private(tmp_path: pathlib.Path) -> None:
    tls.ensure(tmp_path, "127.0.0.1")
    before = (tmp_path / "ca.pem").read_bytes()
    tls.ensure(tmp_path, "127.0.0.1")
    assert (tmp_path / "ca.pem").read_bytes() == before
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_the_operator_token_is_made_once(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "operator-token"
    config = Config("127.0.0.1", tmp_path, "http://127.0.0.1:1", "user:a@example.com", file, {})
    assert config.operator_token() == config.operator_token() == file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600
