# SPDX-License-Identifier: GPL-3.0-or-later
"""What takes the body of an answer, and gives its digest."""

from __future__ import annotations

import hashlib
from typing import Protocol


class Sink(Protocol):
    """Takes a body of a known size."""

    def view(self, at: int) -> memoryview:
        """Room for bytes from offset `at`."""

    def took(self, at: int, size: int) -> None:
        """`size` bytes are there from offset `at`."""

    def digest(self) -> str:
        """The digest of what came."""


class Keep:
    """Keeps a body in memory that is there beforehand, and hashes it afterwards: for what is timed."""

    def __init__(self, size: int) -> None:
        self.body = bytearray(b"\1") * size  # every page is touched before the clock starts
        self._size = 0

    def view(self, at: int) -> memoryview:
        return memoryview(self.body)[at:]

    def took(self, at: int, size: int) -> None:
        self._size = at + size

    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(memoryview(self.body)[: self._size]).hexdigest()}"


class Stream:
    """Hashes what comes and keeps nothing: for what is slow or large."""

    def __init__(self) -> None:
        self._room, self._hash = bytearray(256 << 10), hashlib.sha256()

    def view(self, at: int) -> memoryview:
        return memoryview(self._room)

    def took(self, at: int, size: int) -> None:
        self._hash.update(memoryview(self._room)[:size])

    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"
