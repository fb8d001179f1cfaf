# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to the real registry whose client closes the connection."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from google_emulator.errors import DockerError
from google_emulator.proxying import Registry
from tests.unit.sandbox.google.harness import RegistryTransport, fake_registry

PATH = "/v2/demo/private/hello/manifests/1.0"


def a_request(method: str, path: str) -> Request:
    """The body of a client that has closed the connection."""

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "asgi": {"spec_version": "2.4"}, "method": method, "path": path, "headers": []}
    return Request(scope, receive)


def registry(transport: RegistryTransport) -> Registry:
    return Registry(httpx.AsyncClient(transport=transport, base_url="http://registry:5000"))


def test_the_connection_is_released_when_the_client_leaves_before_the_body() -> None:
    transport = RegistryTransport(fake_registry())
    request = a_request("GET", PATH)

    async def send(_message: Message) -> None:
        raise OSError("the client went away")

    async def run() -> None:
        response = await registry(transport).forward(request, PATH)
        assert transport.unclosed == 1
        with pytest.raises(ClientDisconnect):
            await response(request.scope, request.receive, send)

    asyncio.run(run())
    assert transport.unclosed == 0


def test_an_interrupted_upload_is_not_a_failure_of_the_emulator() -> None:
    path = "/v2/demo/private/hello/blobs/uploads/id"
    with pytest.raises(DockerError, match="closed the connection"):
        asyncio.run(registry(RegistryTransport(fake_registry())).forward(a_request("PUT", path), path))
