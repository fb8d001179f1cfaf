# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP server: tokens, manifests, blobs behind redirects with the configured latency and bandwidth, and `/control`."""

from __future__ import annotations

import base64
import hmac
import http.client
import http.server
import json
import os
import re
import sys
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from ..content import MANIFEST
from .state import TOKEN_SECONDS, USER, Fault, Settings, State

SERVICE = "upstream.bench"
_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)$")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")
# There may be hundreds of paced connections: each wakes up at most this often, and starts with an initial window.
_TICK_SECONDS = 0.025
_WINDOW_BYTES = 16 << 10


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are separate writes
    server: Server

    def setup(self) -> None:
        super().setup()
        self._new = True

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted, not logged."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        state, url = self.server.state, urllib.parse.urlsplit(self.path)
        if url.path.startswith("/control/"):
            return self._control(url.path.removeprefix("/control/"))
        time.sleep(state.settings.latency * (2 if self._new else 1))
        self._new = False
        query = urllib.parse.parse_qs(url.query)
        if url.path == "/token":
            return self._token(query)
        if url.path.startswith("/content/"):
            return self._content(url.path.removeprefix("/content/"), query)
        if url.path == "/v2/":
            return self._send(200, b"{}") if self._allowed("") else None
        if match := _PATH.match(url.path):
            if self._allowed(match["name"]):
                return (self._manifest if match["kind"] == "manifests" else self._blob)(match["name"], match["reference"])
            return None
        return self._error(404, "NAME_UNKNOWN")

    def _control(self, what: str) -> None:
        state = self.server.state
        if what == "settings":
            wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.settings = Settings(
                wanted["latency"], wanted["rate"], {name: Fault(**fault) for name, fault in wanted["faults"].items()}
            )
            state.clear()
        self._send(200, json.dumps({"counts": state.counts, "bytes": state.bytes}).encode())

    def _token(self, query: Mapping[str, list[str]]) -> None:
        state = self.server.state
        kind, _, credential = self.headers.get("Authorization", "").partition(" ")
        wanted = base64.b64encode(f"{USER}:{state.secret}".encode()).decode()
        state.count(self.command, "token", "")
        if kind != "Basic" or not hmac.compare_digest(credential, wanted):
            return self._error(401, "UNAUTHORIZED")
        token = state.token(query.get("scope", [""])[0])
        return self._send(200, json.dumps({"token": token, "expires_in": TOKEN_SECONDS}).encode())

    def _allowed(self, name: str) -> bool:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind == "Bearer" and self.server.state.allows(token, name):
            return True
        realm = f"http://{self.headers['Host']}/token"
        scope = f',scope="repository:{name}:pull"' if name else ""
        self._error(401, "UNAUTHORIZED", {"WWW-Authenticate": f'Bearer realm="{realm}",service="{SERVICE}"{scope}'})
        return False

    def _manifest(self, name: str, reference: str) -> None:
        state = self.server.state
        digest = reference if reference.startswith("sha256:") else state.library.resolve(name)
        state.count(self.command, "manifest", reference if digest == reference else f"{name}:{reference}")
        try:
            body = state.library.manifest(digest or "").read_bytes()
        except OSError:
            return self._error(404, "MANIFEST_UNKNOWN")
        return self._send(200, body, {"Content-Type": MANIFEST, "Docker-Content-Digest": str(digest)})

    def _blob(self, name: str, digest: str) -> None:
        state = self.server.state
        state.count(self.command, "blob", digest)
        if state.fault(digest, "error"):
            time.sleep(1)
            return self._error(500, "UNKNOWN")
        try:
            size = state.library.blob(digest).stat().st_size
        except OSError:
            return self._error(404, "BLOB_UNKNOWN")
        if self.command == "HEAD":
            kind = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            return self._send(200, b"", {**kind, "Docker-Content-Digest": digest})
        return self._send(307, b"", {"Location": state.signed_url(digest)})

    def _content(self, digest: str, query: Mapping[str, list[str]]) -> None:
        state = self.server.state
        if not state.signed(digest, query):
            return self._error(403, "DENIED")
        state.count(self.command, "content", digest)
        with state.library.blob(digest).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            match = _RANGE.match(self.headers.get("Range", ""))
            start = int(match[1]) if match else 0
            end = min(int(match[2]) + 1, size) if match and match[2] else size
            if start >= size:
                return self._error(416, "RANGE_INVALID")
            self.send_response(206 if match else 200)
            if match:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            if self.command == "GET":
                fault, middle = state.fault(digest, "cut", "corrupt"), (start + end) // 2
                self._stream(file.fileno(), start, middle if fault else end)
                if fault == "corrupt":
                    self.wfile.write(bytes([os.pread(file.fileno(), 1, middle)[0] ^ 0xFF]))
                    self._stream(file.fileno(), middle + 1, end)
                self.close_connection = self.close_connection or fault == "cut"
        return None

    def _stream(self, file: int, start: int, end: int) -> None:
        """Sends bytes of a file at the connection's rate. Closes the connection if the client disconnects."""
        rate, out, begun, first = self.server.state.settings.rate, self.connection.fileno(), time.monotonic(), start
        while start < end:
            allowed = end - start
            if rate:
                allowed = first + _WINDOW_BYTES + int(rate * (time.monotonic() - begun)) - start
                if allowed <= 0:
                    time.sleep(_TICK_SECONDS)
                    continue
            sent = os.sendfile(out, file, start, min(allowed, end - start))
            self.server.state.sent(sent)
            start += sent

    def _error(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps({"errors": [{"code": code, "message": "bench upstream"}]}).encode()
        self._send(status, body, headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    """The listening socket."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, state: State, port: int = 0) -> None:
        self.state = state
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that disconnect, and reports all other errors."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)
