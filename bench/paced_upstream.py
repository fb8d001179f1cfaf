# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry as slow and far as a real one: Bearer tokens, redirects to signed URLs, latency, bandwidth, faults.

Loopback only. `python3 -m bench.paced_upstream CONFIG` serves; `Upstream` starts that and steers it through `/control`.
"""

from __future__ import annotations

import base64
import binascii
import collections
import hashlib
import hmac
import http.client
import http.server
import json
import os
import pathlib
import re
import secrets
import sys
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sandbox import processes
from sandbox.steps import wait

from .content import MANIFEST, Library

USER = "_token"
SERVICE = "upstream.bench"
_URL_SECONDS = 300
_TOKEN_SECONDS = 3600
_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)$")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")
# Hundreds of connections are paced: each wakes up at most this often, and starts with a first window.
_TICK_SECONDS = 0.025
_WINDOW_BYTES = 16 << 10


@dataclass
class Fault:
    """What goes wrong with a blob. `kind`: `error` (500 after a second), `cut` (half a body), `corrupt` (one byte)."""

    kind: str
    every: int = 1  # of the answers for that digest, every N-th
    times: int = 1 << 30  # at most so often


@dataclass
class Settings:
    """How far and how slow. `latency`: seconds of a connection and of each answer; `rate`: bytes/s of a connection."""

    latency: float = 0.0
    rate: int = 0  # 0: as fast as it goes
    faults: dict[str, Fault] = field(default_factory=dict)  # by digest


class State:
    """Settings, counters and keys that all connections share."""

    def __init__(self, library: Library, secret: str, settings: Settings) -> None:
        self.library, self.secret, self.settings = library, secret, settings
        self.key = secrets.token_bytes(32)
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget what was counted: requests by `METHOD KIND DIGEST`, where `content` is what a signed URL sends."""
        with self.lock:
            self.counts: collections.Counter[str] = collections.Counter()
            self.bytes = 0
            self._asked: collections.Counter[str] = collections.Counter()
            self._failed: collections.Counter[str] = collections.Counter()

    def count(self, method: str, kind: str, reference: str) -> None:
        with self.lock:
            self.counts[f"{method} {kind} {reference}"] += 1

    def sent(self, size: int) -> None:
        with self.lock:
            self.bytes += size

    def fault(self, digest: str, *kinds: str) -> str | None:
        """The kind of the fault that this answer shall have, of those that can happen where it is asked."""
        fault = self.settings.faults.get(digest)
        if fault is None or fault.kind not in kinds:
            return None
        with self.lock:
            self._asked[digest] += 1
            if self._asked[digest] % fault.every or self._failed[digest] >= fault.times:
                return None
            self._failed[digest] += 1
        return fault.kind

    def sign(self, text: str) -> str:
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()

    def token(self, scope: str, seconds: float = _TOKEN_SECONDS) -> str:
        """A Bearer token for one scope."""
        text = f"{scope}|{time.time() + seconds:.3f}"
        return base64.urlsafe_b64encode(f"{text}|{self.sign(text)}".encode()).decode()

    def allows(self, token: str, name: str) -> bool:
        """Whether a token is ours, fresh, and for pulls from that repository (any, if `name` is empty)."""
        try:
            text, _, signature = base64.urlsafe_b64decode(token).decode().rpartition("|")
            scope, _, expiry = text.rpartition("|")
            fresh = float(expiry) > time.time()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return False
        good = hmac.compare_digest(signature, self.sign(text)) and fresh
        return good and (not name or scope == f"repository:{name}:pull")

    def signed_url(self, digest: str, seconds: float = _URL_SECONDS) -> str:
        """A path that gives a blob to whoever knows it, until it expires."""
        expires = f"{time.time() + seconds:.3f}"
        query = urllib.parse.urlencode({"expires": expires, "signature": self.sign(f"{digest}|{expires}")})
        return f"/content/{digest}?{query}"

    def signed(self, digest: str, query: Mapping[str, list[str]]) -> bool:
        """Whether a signed URL is ours and fresh."""
        expires, signature = query.get("expires", [""])[0], query.get("signature", [""])[0]
        if not hmac.compare_digest(signature, self.sign(f"{digest}|{expires}")):
            return False
        return float(expires) > time.time()


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are two writes
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
        return self._send(200, json.dumps({"token": token, "expires_in": _TOKEN_SECONDS}).encode())

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
        """Send bytes of a file at the connection's rate. A peer that leaves ends the connection."""
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
        """Clients that leave are no news; anything else is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Upstream:
    """A running upstream process."""

    def __init__(self, folder: pathlib.Path, library: Library, port: int) -> None:
        self.port, self.secret = port, secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{port}"
        self._pid_file = folder / "upstream.pid"
        config = folder / "upstream.json"
        config.write_text(json.dumps({"library": str(library.folder), "port": port, "secret": self.secret}))
        processes.start(self._pid_file, [sys.executable, "-m", "bench.paced_upstream", str(config)])
        wait(self._answers, 20, "the upstream", every=0.05)

    def _answers(self) -> bool:
        try:
            return self.counts() == {}
        except OSError:
            return False

    def _call(self, what: str, body: Any = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("POST" if body is not None else "GET", f"/control/{what}", json.dumps(body) if body else None)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def set(self, latency: float = 0.0, rate: int = 0, faults: Mapping[str, Fault] | None = None) -> None:
        """Set seconds of latency, bytes/s of a connection and faults by digest; counters begin anew."""
        self._call("settings", asdict(Settings(latency, rate, dict(faults or {}))))

    def counts(self) -> dict[str, int]:
        """Requests since `set`, by `METHOD KIND DIGEST` (kinds: token, manifest, blob, content)."""
        return self._call("counts")["counts"]

    def sent(self) -> int:
        """Bytes of blobs sent since `set`."""
        return self._call("counts")["bytes"]

    def stop(self) -> None:
        processes.stop(self._pid_file)


def main() -> None:
    config = json.loads(pathlib.Path(sys.argv[1]).read_text())
    Server(State(Library(pathlib.Path(config["library"])), config["secret"], Settings()), config["port"]).serve_forever()


if __name__ == "__main__":
    main()
