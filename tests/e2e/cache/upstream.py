# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry on loopback whose content, errors and delays a test controls. It counts requests."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import random
import re
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from bench.content import MANIFEST

NAME = "p/r/image"
USER = "_token"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
_CHUNK = 64 << 10


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def noise(size: int, seed: object = 0) -> bytes:
    """Returns pseudorandom bytes that are the same on every run."""
    return random.Random(repr(seed)).randbytes(size)


@dataclass(frozen=True)
class Seen:
    """A received request."""

    method: str
    path: str  # with the query
    headers: dict[str, str]  # names in lower case


@dataclass
class Rule:
    """What happens to requests whose `METHOD /path` matches.

    :param delay: seconds before the answer.
    :param status: an error status; 0 for the usual answer.
    :param rate: bytes of a body per second.
    :param hold: pause after so many bytes of a body until `release` is called; 0 pauses before the header.
    :param corrupt: change one byte of a body.
    :param cut: close the connection after so many bytes of a body.
    :param times: the number of requests it applies to.
    """

    match: str
    delay: float = 0
    status: int = 0
    rate: int = 0
    hold: int | None = None
    corrupt: bool = False
    cut: int | None = None
    times: int = 1 << 30
    began: threading.Event = field(default_factory=threading.Event)  # set by the first such request
    _released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        self._released.set()

    def wait(self) -> None:
        self._released.wait(60)


class Upstream(http.server.ThreadingHTTPServer):
    """The registry. `strict`: a manifest is 404 for an Accept without its type, as in distribution."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes, str]] = {}  # by NAME/REFERENCE: media type, body, digest
        self.lists: dict[str, Any] = {}  # other JSON answers by path without query
        self.strict = False
        self.secret = ""  # password of the user who may pull; if empty, everybody may
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._seen: list[Seen] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the error: tests stop and kill the cache during requests."""

    def blob(self, content: bytes) -> str:
        """Add a blob. Returns its digest."""
        name = digest(content)
        self.blobs[name] = content
        return name

    def manifest(self, body: bytes, *tags: str, media_type: str = MANIFEST, name: str = NAME, known_as: str = "") -> str:
        """Add a manifest. Returns its digest, or `known_as` if that is not the digest of the bytes."""
        known_as = known_as or digest(body)
        for reference in (known_as, *tags):
            self.manifests[f"{name}/{reference}"] = (media_type, body, known_as)
        return known_as

    def image(self, *tags: str, layer: bytes = b"layer", name: str = NAME) -> tuple[str, str]:
        """Add an image with one layer. Returns the digests of its manifest and its layer."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "author": digest(layer)}).encode()
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": self.blob(config), "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": self.blob(layer), "size": len(layer)}],
        }
        return self.manifest(json.dumps(body).encode(), *tags, name=name), digest(layer)

    def rule(self, match: str, **what: Any) -> Rule:
        """Add a rule. The first one that matches applies."""
        made = Rule(match, **what)
        with self._lock:
            self._rules.append(made)
        return made

    def heal(self) -> None:
        """Remove all rules and continue paused answers."""
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.release()

    def seen(self, match: str = "") -> list[Seen]:
        """Returns the requests so far whose `METHOD /path` matches."""
        with self._lock:
            return [one for one in self._seen if re.search(match, f"{one.method} {one.path}")]

    def count(self, match: str = "") -> int:
        return len(self.seen(match))

    def note(self, seen: Seen) -> Rule | None:
        """Record a request. Returns its rule."""
        with self._lock:
            self._seen.append(seen)
            for rule in self._rules:
                if rule.times and re.search(rule.match, f"{seen.method} {seen.path}"):
                    rule.times -= 1
                    rule.began.set()
                    return rule
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are separate writes
    server: Upstream

    def log_message(self, format: str, *args: Any) -> None:
        """Do nothing: requests are recorded, not logged."""

    def do_GET(self) -> None:
        seen = Seen(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        rule = self.server.note(seen) or Rule("")
        time.sleep(rule.delay)
        if rule.hold == 0:
            rule.wait()
        path = urllib.parse.urlsplit(self.path).path
        if rule.status:
            self._error(rule.status)
        elif path == "/token":
            self._token(rule)
        elif self._allowed(path):
            self._content(rule, path)
        else:
            self._error(401)

    do_HEAD = do_GET

    def _error(self, status: int) -> None:
        body = b'{"errors":[{"code":"TEST","message":"as the test says"}]}'
        headers = {"WWW-Authenticate": f'Bearer realm="{self.server.url}/token",service="upstream"'} if status == 401 else {}
        self._send(Rule(""), status, "application/json", body, headers)

    def _token(self, rule: Rule) -> None:
        """Send a token for the repository of the scope, which is not secret here."""
        wanted = base64.b64encode(f"{USER}:{self.server.secret}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {wanted}":
            return self._error(401)
        scopes = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("scope", [""])
        return self._send(rule, 200, "application/json", json.dumps({"token": f"for {scopes[0]}"}).encode(), {})

    def _allowed(self, path: str) -> bool:
        if not self.server.secret:
            return True
        repository = re.match(r"/v2/(.+)/(?:blobs|manifests|tags)/", path)
        return bool(repository) and self.headers.get("Authorization") == f"Bearer for repository:{repository[1]}:pull"  # type: ignore[index]

    def _content(self, rule: Rule, path: str) -> None:
        server = self.server
        if path == "/v2/":
            self._send(rule, 200, "application/json", b"{}", {})
        elif path in server.lists:
            self._send(rule, 200, "application/json", json.dumps(server.lists[path]).encode(), {})
        elif (match := re.fullmatch(r"/v2/.+/blobs/([^/]+)", path)) and match[1] in server.blobs:
            self._send(rule, 200, "application/octet-stream", server.blobs[match[1]], {"Docker-Content-Digest": match[1]})
        elif (match := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", path)) and f"{match[1]}/{match[2]}" in server.manifests:
            media_type, body, known_as = server.manifests[f"{match[1]}/{match[2]}"]
            if server.strict and media_type not in ",".join(self.headers.get_all("Accept", [])):
                return self._error(404)
            self._send(rule, 200, media_type, body, {"Docker-Content-Digest": known_as})
        else:
            self._error(404)
        return None

    def _send(self, rule: Rule, status: int, media_type: str, body: bytes, headers: dict[str, str]) -> None:
        first, length = 0, len(body)
        if status == 200 and (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            first, status = int(match[1]), 206
            headers = {**headers, "Content-Range": f"bytes {first}-{length - 1}/{length}"}
        self.send_response_only(status)
        for name, value in {"Content-Length": str(length - first), "Content-Type": media_type, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._body(rule, body, first)

    def _body(self, rule: Rule, body: bytes, at: int) -> None:
        if rule.corrupt:
            body = body[:-1] + bytes([body[-1] ^ 1])
        end = len(body) if rule.cut is None else rule.cut
        began, begin = time.monotonic(), at
        while at < end:
            if rule.hold and at >= rule.hold:
                rule.wait()
            size = min(_CHUNK, end - at, rule.hold - at if rule.hold and at < rule.hold else _CHUNK)
            self.wfile.write(body[at : at + size])
            at += size
            if rule.rate:
                time.sleep(max(0, began + (at - begin) / rule.rate - time.monotonic()))
        if rule.cut is not None:
            self.close_connection = True
