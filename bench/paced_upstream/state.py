# SPDX-License-Identifier: GPL-3.0-or-later
"""State shared by all connections: settings, faults, counters, and the keys that sign tokens and URLs."""

from __future__ import annotations

import base64
import binascii
import collections
import hashlib
import hmac
import secrets
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..content import Library

USER = "_token"
TOKEN_SECONDS = 3600
_URL_SECONDS = 300


@dataclass
class Fault:
    """A fault of a blob. `kind`: `error` (500 after a second), `cut` (half a body), `corrupt` (one byte)."""

    kind: str
    every: int = 1  # every N-th response for the digest
    times: int = 1 << 30  # maximum number of faults


@dataclass
class Settings:
    """Latency and bandwidth. `latency`: seconds per connection and per response; `rate`: bytes/s per connection."""

    latency: float = 0.0
    rate: int = 0  # 0: unlimited
    faults: dict[str, Fault] = field(default_factory=dict)  # by digest


class State:
    """Settings, counters and keys shared by all connections."""

    def __init__(self, library: Library, secret: str, settings: Settings) -> None:
        self.library, self.secret, self.settings = library, secret, settings
        self.key = secrets.token_bytes(32)
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Resets the counters of requests, by `METHOD KIND DIGEST`; `content` is the response to a signed URL."""
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
        """Returns the kind of fault for this response, or None. Only the given kinds are considered."""
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

    def token(self, scope: str, seconds: float = TOKEN_SECONDS) -> str:
        """Returns a Bearer token for one scope."""
        text = f"{scope}|{time.time() + seconds:.3f}"
        return base64.urlsafe_b64encode(f"{text}|{self.sign(text)}".encode()).decode()

    def allows(self, token: str, name: str) -> bool:
        """Returns whether a token is valid for pulls from a repository, or for any repository if `name` is empty."""
        try:
            text, _, signature = base64.urlsafe_b64decode(token).decode().rpartition("|")
            scope, _, expiry = text.rpartition("|")
            fresh = float(expiry) > time.time()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return False
        good = hmac.compare_digest(signature, self.sign(text)) and fresh
        return good and (not name or scope == f"repository:{name}:pull")

    def signed_url(self, digest: str, seconds: float = _URL_SECONDS) -> str:
        """Returns a signed path, which serves a blob without a credential until it expires."""
        expires = f"{time.time() + seconds:.3f}"
        query = urllib.parse.urlencode({"expires": expires, "signature": self.sign(f"{digest}|{expires}")})
        return f"/content/{digest}?{query}"

    def signed(self, digest: str, query: Mapping[str, list[str]]) -> bool:
        """Returns whether a signed URL is valid."""
        expires, signature = query.get("expires", [""])[0], query.get("signature", [""])[0]
        if not hmac.compare_digest(signature, self.sign(f"{digest}|{expires}")):
            return False
        return float(expires) > time.time()
