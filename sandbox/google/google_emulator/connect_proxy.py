# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTP proxy (RFC 9110 section 9.3.6) that connects Google's names to the emulator, and refuses all others."""

from __future__ import annotations

import asyncio
import re

_HOSTS = rb"[a-z0-9-]+\.googleapis\.com|[a-z0-9-]+-docker\.pkg\.dev|(?:(?:us|eu|asia)\.)?gcr\.io"
_ALLOWED = re.compile(rb"CONNECT (%s):443 HTTP/1\.[01]\r\n" % _HOSTS)
_REFUSAL = (
    b"This proxy leads to the Google emulator only: CONNECT to *.googleapis.com, *-docker.pkg.dev or gcr.io, port 443.\n"
)
_HEADER_SECONDS = 10


async def serve(address: str, port: int, target_port: int) -> asyncio.Server:
    """Listen on `address`. Tunnels lead to `target_port` of the same address."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEADER_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            if not _ALLOWED.match(head):
                writer.write(
                    b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nConnection: close\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(_REFUSAL), _REFUSAL)
                )
                await writer.drain()
                return
            target_reader, target_writer = await asyncio.open_connection(address, target_port)
            try:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(_copy(reader, target_writer), _copy(target_reader, writer))
            finally:
                target_writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # The client or the target closed the connection.
        finally:
            writer.close()

    return await asyncio.start_server(handle, address, port)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction until its end, then close the other side for writing."""
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()
