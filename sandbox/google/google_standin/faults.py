# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test wants of the next blobs: slow, refused, cut or corrupt. The operator's own downloads are spared."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, fields

_TICK_SECONDS = 0.05  # a slow body comes in pieces of this


class Cut(Exception):
    """The connection ends before the body does."""


@dataclass
class Fault:
    """Applies to the next `count` downloads of blobs whose path contains `match` (a digest, an image, any part).

    seconds: before the answer begins. bytes_per_second: of the body; 0 is no limit.
    status: an error instead of the blob. cut, corrupt: at the middle of the body.
    """

    match: str
    count: int
    seconds: float = 0
    bytes_per_second: int = 0
    status: int = 0
    cut: bool = False
    corrupt: bool = False

    @classmethod
    def parse(cls, body: object) -> Fault:
        """Raises ValueError for what is missing, unknown or out of bounds."""
        if not isinstance(body, Mapping):
            raise ValueError("an object is expected")
        types = {"match": str, "count": int, "bytes_per_second": int, "status": int, "cut": bool, "corrupt": bool}
        for name, value in body.items():
            if name not in {field.name for field in fields(cls)}:
                raise ValueError(f"unknown: {name}")
            if type(value) is not types.get(name) and not (name == "seconds" and type(value) in (int, float)):
                raise ValueError(f"{name} is of the wrong type")
        if missing := {"match", "count"} - body.keys():
            raise ValueError(f"missing: {', '.join(sorted(missing))}")
        fault = cls(**body)
        if not (1 <= fault.count <= 100_000 and 0 <= fault.seconds <= 3600 and fault.bytes_per_second >= 0):
            raise ValueError("count is 1 to 100000, seconds 0 to 3600, bytes_per_second not negative")
        if fault.status and not 400 <= fault.status <= 599:
            raise ValueError("status is an error, 400 to 599")
        return fault

    async def shape(self, body: AsyncIterator[bytes], length: int) -> AsyncIterator[bytes]:
        """The body of a download as this fault has it. Raises Cut where the connection is to end."""
        middle, sent = length // 2, 0
        async for chunk in body:
            for piece in self._pieces(chunk):
                if self.corrupt and sent <= middle < sent + len(piece):
                    at = middle - sent
                    piece = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
                if self.cut and sent + len(piece) > middle:
                    yield piece[: middle - sent]
                    raise Cut
                yield piece
                sent += len(piece)
                if self.bytes_per_second:
                    await asyncio.sleep(len(piece) / self.bytes_per_second)

    def _pieces(self, chunk: bytes) -> list[bytes]:
        size = math.ceil(self.bytes_per_second * _TICK_SECONDS) or len(chunk) or 1
        return [chunk[start : start + size] for start in range(0, len(chunk), size)]


class Faults:
    """The faults that are left, in the order in which they were set."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def reset(self) -> None:
        self._faults.clear()

    def read(self) -> list[dict[str, object]]:
        return [asdict(fault) for fault in self._faults]

    def take(self, path: str) -> Fault | None:
        """The first fault for a path; one less of it is left."""
        for fault in self._faults:
            if fault.match in path:
                fault.count -= 1
                if not fault.count:
                    self._faults.remove(fault)
                return fault
        return None
