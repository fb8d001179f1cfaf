# SPDX-License-Identifier: GPL-3.0-or-later
"""Pulls like containerd: three blobs at a time, with Range requests to resume, and retries. Verifies bodies afterwards.

The same client measures every candidate. It supports caches (Basic) and registries (Bearer tokens, redirects).
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .content import MANIFEST, Blob, Image, Library
from .endpoint import Endpoint
from .sinks import Keep, Sink, Stream

RETRIES = 5  # attempts without progress before a pull fails
_PARALLEL = 3  # containerd's max_concurrent_downloads
_BACKOFF_SECONDS = 0.05
_AGAIN = frozenset((408, 429, 500, 502, 503, 504))
_CHUNK = 1 << 20
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class Broken(Exception):
    """A response that a client cannot use. `again`: whether to retry."""

    def __init__(self, text: str, again: bool = True) -> None:
        super().__init__(text)
        self.again = again


class Answer(NamedTuple):
    """Status and headers of a response. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    connection: socket.socket


@dataclass
class Transfer:
    """The transfer of a blob or manifest to a client. Times are in seconds since its first request."""

    blob: Blob
    first_byte: float = 0.0
    seconds: float = 0.0
    received: int = 0
    requests: int = 0
    resumed: int = 0
    status: int = 0  # last status
    complete: bool = False  # the response ended without an error
    error: str = ""
    right: bool = False  # the body is right; set by `check`
    sink: Sink | None = field(default=None, repr=False)

    def check(self) -> None:
        """Compares size and digest with those in the manifest, and releases the body."""
        digest = self.sink.digest() if self.sink else ""
        self.right = self.complete and self.received == self.blob.size and digest == self.blob.digest
        self.sink = None

    @property
    def wrong(self) -> bool:
        """Whether the response ended without an error, but with wrong bytes."""
        return self.complete and not self.right


class Session:
    """A client's connection, kept alive between requests. Caches a Bearer token."""

    def __init__(self, endpoint: Endpoint, token: str = "") -> None:
        self.endpoint, self.token = endpoint, token
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._early = bytearray()  # bytes of the body that were received with the header

    def close(self) -> None:
        for connection in self._sockets.values():
            connection.close()
        self._sockets.clear()

    def _credential(self) -> dict[str, str]:
        if self.token:
            return {"Authorization": f"Bearer {self.token}"}
        if self.endpoint.user:
            return {"Authorization": self.endpoint.authorization}
        return {}

    def _exchange(self, method: str, peer: tuple[str, int], target: str, headers: Mapping[str, str]) -> Answer:
        """Sends a request to a host and port, on the existing connection if possible."""
        connection = self._sockets.get(peer)
        if connection is None:
            connection = socket.create_connection(peer, timeout=self.endpoint.timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets[peer] = connection
        lines = [f"{method} {target} HTTP/1.1", f"Host: {peer[0]}:{peer[1]}", *(f"{k}: {v}" for k, v in headers.items())]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            if not (piece := connection.recv(16 << 10)):
                raise Broken("connection closed before a response")
            data += piece
        self._early = data[end + 4 :]
        first, *rest = data[:end].decode("latin-1").split("\r\n")
        named = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        return Answer(int(first.split()[1]), named, connection)

    def open(self, method: str, path: str, start: int = 0) -> Answer:
        """Requests a path, with the credential that the registry requires, and follows redirects."""
        extra = {"Range": f"bytes={start}-"} if start else {}
        if "/manifests/" in path:
            extra["Accept"] = MANIFEST
        for _ in range(2):
            answer = self._exchange(method, (self.endpoint.host, self.endpoint.port), path, {**self._credential(), **extra})
            challenge = answer.headers.get("www-authenticate", "")
            if answer.status != 401 or not challenge.startswith("Bearer "):
                break
            self._drain(answer, method)
            self._fetch_token(dict(_CHALLENGE.findall(challenge)))
        if answer.status in (302, 307):
            self._drain(answer, method)
            here = f"http://{self.endpoint.host}:{self.endpoint.port}{path}"
            url = urllib.parse.urlsplit(urllib.parse.urljoin(here, answer.headers["location"]))
            target = f"{url.path}?{url.query}" if url.query else url.path
            return self._exchange(method, (url.hostname or "", url.port or 80), target, extra)
        return answer

    def _drain(self, answer: Answer, method: str) -> None:
        """Reads a short body, so that the connection can be reused."""
        while method != "HEAD" and len(self._early) < int(answer.headers.get("content-length", 0)):
            if not (piece := answer.connection.recv(16 << 10)):
                raise Broken("connection closed within a body")
            self._early += piece

    def _fetch_token(self, challenge: Mapping[str, str]) -> None:
        realm = urllib.parse.urlsplit(challenge["realm"])
        query = urllib.parse.urlencode({k: challenge[k] for k in ("service", "scope") if k in challenge})
        peer = (realm.hostname or "", realm.port or 80)
        answer = self._exchange("GET", peer, f"{realm.path}?{query}", {"Authorization": self.endpoint.authorization})
        if answer.status != 200:
            raise Broken(f"the token endpoint returned status {answer.status}", again=False)
        self._drain(answer, "GET")
        self.token = json.loads(self._early)["token"]

    def fetch(self, path: str, blob: Blob, sink: Sink, resume: bool = True, retries: int = RETRIES) -> Transfer:
        """Fetches a body into a sink. `resume`: whether to resume an interrupted transfer with Range requests."""
        transfer = Transfer(blob, sink=sink)
        started, failures = time.monotonic(), 0
        while not transfer.complete:
            before = transfer.received
            try:
                transfer.requests += 1
                self._attempt(path, transfer, started)
            except (OSError, Broken, ValueError) as error:
                self.close()
                transfer.error = str(error) or type(error).__name__
                failures = 1 if transfer.received > before else failures + 1
                again = not isinstance(error, Broken) or error.again
                if failures > retries or not again or (transfer.received and not resume):
                    break
                time.sleep(_BACKOFF_SECONDS * 2**failures)
        transfer.seconds = time.monotonic() - started
        return transfer

    def _attempt(self, path: str, transfer: Transfer, started: float) -> None:
        sink, start = transfer.sink, transfer.received
        assert sink
        answer = self.open("GET", path, start)
        status, headers, connection = answer.status, answer.headers, answer.connection
        transfer.status = status
        if status not in (200, 206):
            raise Broken(f"status {status}", again=status in _AGAIN)
        if start:
            transfer.resumed += 1
            if status == 206 and not headers.get("content-range", "").startswith(f"bytes {start}-"):
                raise Broken("the response has the wrong range", again=False)
        skip = start if status == 200 else 0  # a server without range support sends the beginning again
        if "content-length" not in headers:
            raise Broken("no length", again=False)
        left = int(headers["content-length"])
        transfer.first_byte = transfer.first_byte or (time.monotonic() - started if self._early else 0.0)
        while left:
            if skip:
                piece = self._early[:left] or connection.recv(min(skip, left, _CHUNK))
                size, new = len(piece), bytes(piece[skip:])
                skip -= size - len(new)
                self._early = bytearray()
            elif self._early:
                new, size = bytes(self._early[:left]), min(len(self._early), left)
                self._early = bytearray()
            else:
                size = self._receive(connection, transfer, left)
                new = b""
            if not size:
                raise Broken("cut")
            transfer.first_byte = transfer.first_byte or time.monotonic() - started
            self._put(transfer, new)
            left -= size
        transfer.complete = True
        if headers.get("connection", "").lower() == "close":
            self.close()

    def _receive(self, connection: socket.socket, transfer: Transfer, left: int) -> int:
        """Receives directly into the sink, which may be full if the response is longer than the size in the manifest."""
        sink = transfer.sink
        assert sink
        room = sink.view(transfer.received)
        if not room:
            size = len(connection.recv(min(left, _CHUNK)))
            transfer.received += size
        elif size := connection.recv_into(room, min(len(room), left, _CHUNK)):
            sink.took(transfer.received, size)
            transfer.received += size
        return size

    @staticmethod
    def _put(transfer: Transfer, new: bytes) -> None:
        sink = transfer.sink
        assert sink
        while new and (room := sink.view(transfer.received)):
            size = min(len(room), len(new))
            room[:size] = new[:size]
            sink.took(transfer.received, size)
            transfer.received += size
            new = new[size:]
        transfer.received += len(new)  # longer than the size in the manifest


@dataclass
class Pull:
    """The pull of one client. `started`: seconds of the monotonic clock."""

    started: float
    seconds: float
    transfers: list[Transfer]

    @property
    def ended(self) -> float:
        return self.started + self.seconds

    @property
    def failed(self) -> bool:
        return not all(transfer.complete for transfer in self.transfers)

    @property
    def first_byte(self) -> float:
        """Maximum time to the first byte of a blob, in seconds; infinite if a blob never arrived."""
        return max((t.first_byte if t.received else float("inf")) for t in self.transfers)

    @property
    def bytes(self) -> int:
        return sum(transfer.received for transfer in self.transfers)

    def check(self) -> None:
        for transfer in self.transfers:
            transfer.check()


def pull(endpoint: Endpoint, image: Image, keep: bool = True, sinks: Mapping[str, Sink] | None = None) -> Pull:
    """Pulls an image: HEAD of its tag, manifest, then config and layers. `keep`: hash after the pull instead of during it."""

    def sink(blob: Blob) -> Sink:
        return (sinks or {}).get(blob.digest) or (Keep(blob.size) if keep else Stream())

    def blobs(session: Session) -> None:
        while queue:
            try:
                blob = queue.pop(0)
            except IndexError:  # another thread has taken the last blob
                break
            transfers.append(session.fetch(f"/v2/{image.name}/blobs/{blob.digest}", blob, sink(blob)))
        session.close()

    started, session = time.monotonic(), Session(endpoint)
    transfers: list[Transfer] = []
    digest = image.manifest.digest
    try:
        answer = session.open("HEAD", f"/v2/{image.name}/manifests/{Library.tag}")
        digest = answer.headers.get("docker-content-digest", digest)
    except (OSError, Broken):
        session.close()  # containerd sends a GET in this case, too
    manifest = session.fetch(f"/v2/{image.name}/manifests/{digest}", image.manifest, sink(image.manifest))
    transfers.append(manifest)
    if manifest.complete:
        queue = list(image.blobs)
        others = [Session(endpoint, session.token) for _ in range(min(_PARALLEL, len(queue)) - 1)]
        threads = [threading.Thread(target=blobs, args=(other,), daemon=True) for other in others]
        for thread in threads:
            thread.start()
        blobs(session)
        for thread in threads:
            thread.join()
    session.close()
    return Pull(started, time.monotonic() - started, transfers)


def get(
    endpoint: Endpoint, image: Image, blob: Blob, sink: Sink, resume: bool = True, retries: int = RETRIES
) -> Pull:
    """Fetches one blob of an image."""
    started, session = time.monotonic(), Session(endpoint)
    transfer = session.fetch(f"/v2/{image.name}/blobs/{blob.digest}", blob, sink, resume, retries)
    session.close()
    return Pull(started, time.monotonic() - started, [transfer])
