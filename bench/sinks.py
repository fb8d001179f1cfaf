# SPDX-License-Identifier: GPL-3.0-or-later
"""Sinks for the bodies of responses, which compute their digest."""

from __future__ import annotations

import hashlib
from typing import Protocol


class Sink(Protocol):
    """A sink for a body of known size."""

    def view(self, at: int) -> memoryview:
        """Returns a buffer for bytes from offset `at`."""

    def took(self, at: int, size: int) -> None:
        """Records that `size` bytes were written from offset `at`."""

    def digest(self) -> str:
        """Returns the digest of the received bytes."""


class Keep:
    """Keeps a body in preallocated memory and hashes it afterwards, for timed transfers."""

    def __init__(self, size: int) -> None:
        self.body = bytearray(b"\1") * size  # touches every page before the measurement
        self._size = 0

    def view(self, at: int) -> memoryview:
        return memoryview(self.body)[at:]

    def took(self, at: int, size: int) -> None:
        self._size = at + size

    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(memoryview(self.body)[: self._size]).hexdigest()}"


class Stream:
    """Hashes a body without keeping it, for slow or large transfers."""

    def __init__(self) -> None:
        self._room, self._hash = bytearray(256 << 10), hashlib.sha256()

    def view(self, at: int) -> memoryview:
        return memoryview(self._room)

    def took(self, at: int, size: int) -> None:
        self._hash.update(memoryview(self._room)[:size])

    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"
