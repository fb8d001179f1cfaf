# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads blobs, also slowly."""

from __future__ import annotations

import hashlib
import http.client
import socket
import time

from bench.endpoint import Endpoint
from tests.e2e.registry import authorization

from .upstream import NAME

_MIB = 1 << 20


def path(name: str) -> str:
    return f"/v2/{NAME}/blobs/{name}"


def read(endpoint: Endpoint, name: str, rate: int = 0, **headers: str) -> tuple[int, str, int]:
    """GET a blob once. Returns the status, and the digest and size of the body. Raises IncompleteRead if it is interrupted."""
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=60)
    hashed, size = hashlib.sha256(), 0
    try:
        connection.connect()
        if rate:
            # Keeps the buffer of the kernel small.
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        connection.request("GET", path(name), headers={**authorization(endpoint), **headers})
        answer, began = connection.getresponse(), time.monotonic()
        while piece := answer.read(64 << 10 if rate else _MIB):
            hashed.update(piece)
            size += len(piece)
            if rate:
                time.sleep(max(0, began + size / rate - time.monotonic()))
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        return answer.status, f"sha256:{hashed.hexdigest()}", size
    finally:
        connection.close()
