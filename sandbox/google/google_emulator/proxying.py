# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams requests to the real registry and its answers back, without keeping bodies in memory."""

from __future__ import annotations

from urllib.parse import urlencode, urlsplit

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .errors import DockerError
from .faults import Cut

_FORWARDED = {
    "accept",
    "content-length",
    "content-range",
    "content-type",
    "if-match",
    "if-none-match",
    "if-range",
    "range",
    "user-agent",
}
# distribution answers 404 for a media type that is not in Accept; Artifact Registry does not check Accept.
_MANIFEST_KINDS = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
# Only for one hop; the server adds its own date.
_DROPPED = {"connection", "date", "keep-alive", "transfer-encoding"}


class _Relayed(StreamingResponse):
    """An answer of the registry, streamed to the client. The registry's connection is always released."""

    def __init__(self, upstream: httpx.Response) -> None:
        super().__init__(upstream.aiter_raw(), upstream.status_code)
        self._upstream = upstream
        self.raw_headers = [
            (name.lower(), _on_our_host(value) if name.lower() == b"location" else value)
            for name, value in upstream.headers.raw
            if name.lower().decode() not in _DROPPED
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except Cut:
            pass  # the server closes the connection of an incomplete answer
        finally:
            await self._upstream.aclose()


class Registry:
    """A distribution registry. `client`: with its base URL."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def head(self, path: str) -> int:
        """Returns the HTTP status of a HEAD."""
        upstream = await self._send(self._client.build_request("HEAD", path, headers={"accept": _MANIFEST_KINDS}))
        await upstream.aclose()
        return upstream.status_code

    async def forward(
        self,
        request: Request,
        path: str,
        query: list[tuple[str, str]] | None = None,
        *,
        missing: DockerError | None = None,
    ) -> StreamingResponse:
        """Returns the registry's answer to a request at another path, sent without the credential.

        missing: raised instead of a 404.
        """
        headers = [(name, value) for name, value in request.headers.items() if name in _FORWARDED]
        # No compression, which httpx would request.
        headers += [("accept", _MANIFEST_KINDS), ("accept-encoding", "identity")]
        body = request.stream() if request.method in ("PATCH", "POST", "PUT") else None
        target = f"{path}?{urlencode(query)}" if query else path
        upstream = await self._send(self._client.build_request(request.method, target, headers=headers, content=body))
        if upstream.status_code == 404 and missing is not None:
            await upstream.aclose()
            raise missing
        return _Relayed(upstream)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            message = f"The registry behind the emulator: {type(error).__name__}"
            raise DockerError(502, "UNAVAILABLE", message) from None
        except ClientDisconnect:
            # Only for the log, since the client is gone.
            raise DockerError(400, "BLOB_UPLOAD_INVALID", "The client closed the connection.") from None


def _on_our_host(location: bytes) -> bytes:
    return urlsplit(location)._replace(scheme=b"", netloc=b"").geturl()
