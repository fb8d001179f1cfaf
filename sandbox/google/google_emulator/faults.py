# SPDX-License-Identifier: GPL-3.0-or-later
"""Fault injection: slow, interrupted or corrupt blobs, failing hosts, and conditions that last until a reset."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from .errors import OUTAGES

_TICK_SECONDS = 0.05  # the interval between pieces of a slow body
_HOST = re.compile(r"[a-z0-9]+\.googleapis\.com|[a-z0-9-]+-docker\.pkg\.dev")
_F = TypeVar("_F", "Fault", "HostFault")
_TYPES = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


class Cut(Exception):
    """The connection is closed before the end of the body."""


@dataclass
class Fault:
    """Applies to the next `count` downloads of blobs whose path contains `match` (a digest, an image, any part).

    seconds: delay of the answer. bytes_per_second: of the body; 0 for no limit.
    status: an error instead of the blob. cut, corrupt: in the middle of the body.
    The operator's downloads are not affected.
    """

    match: str
    count: int
    seconds: float = 0
    bytes_per_second: int = 0
    status: int = 0
    cut: bool = False
    corrupt: bool = False

    def check(self) -> None:
        """Raises ValueError for values out of range."""
        _check_bounds(self.count, self.seconds)
        if self.bytes_per_second < 0:
            raise ValueError("bytes_per_second is not negative")
        if self.status and not 400 <= self.status <= 599:
            raise ValueError("status is an error, 400 to 599")

    async def shape(self, body: AsyncIterator[bytes], length: int) -> AsyncIterator[bytes]:
        """Returns the body of a download with this fault. Raises Cut to close the connection."""
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


@dataclass
class HostFault:
    """Applies to the next `count` requests to one of Google's hosts whose path contains `path`, also the operator's.

    One of: hang, seconds without an answer, then 504; status, an outage with the host's message; seconds, the delay of the
    request; truncate, an answer whose connection is closed in the middle of the body.
    """

    host: str
    count: int
    path: str = ""
    hang: float = 0
    status: int = 0
    seconds: float = 0
    truncate: bool = False

    def check(self) -> None:
        """Raises ValueError for values out of range."""
        _check_bounds(self.count, max(self.hang, self.seconds))
        if min(self.hang, self.seconds) < 0:
            raise ValueError("seconds and hang are not negative")
        if not _HOST.fullmatch(self.host):
            raise ValueError("host is a name of *.googleapis.com or LOCATION-docker.pkg.dev")
        if [bool(effect) for effect in (self.hang, self.status, self.seconds, self.truncate)].count(True) != 1:
            raise ValueError("exactly one of hang, status, seconds and truncate is needed")
        if self.status and self.status not in OUTAGES:
            raise ValueError(f"status is one of {', '.join(map(str, sorted(OUTAGES)))}")


@dataclass
class Conditions:
    """Conditions that last until the next reset.

    expired: STS issues expired tokens. grant_lag, enable_lag: seconds until a new binding, or an API
    that was enabled, takes effect. clock_shift: seconds that the emulator's clock is ahead (behind, if negative).
    """

    expired: bool = False
    grant_lag: float = 0
    enable_lag: float = 0
    clock_shift: float = 0

    def check(self) -> None:
        """Raises ValueError for values out of range."""
        if min(self.grant_lag, self.enable_lag) < 0:
            raise ValueError("grant_lag and enable_lag are not negative")


class Faults:
    """The remaining faults, in the order in which they were added."""

    def __init__(self) -> None:
        self.conditions = Conditions()
        self._blobs: list[Fault] = []
        self._hosts: list[HostFault] = []

    def add(self, body: object) -> None:
        """Add a fault, or set conditions. Raises ValueError for invalid input."""
        if not isinstance(body, Mapping):
            raise ValueError("an object is expected")
        if body.keys() & {field.name for field in fields(Conditions)}:
            conditions = _parse(Conditions, {**asdict(self.conditions), **body})
            vars(self.conditions).update(vars(conditions))
        elif "host" in body:
            self._hosts.append(_parse(HostFault, body))
        else:
            self._blobs.append(_parse(Fault, body))

    def reset(self) -> None:
        self._blobs.clear()
        self._hosts.clear()
        vars(self.conditions).update(vars(Conditions()))

    def read(self) -> list[dict[str, object]]:
        """Returns the remaining faults, then the conditions if any are set."""
        conditions = [asdict(self.conditions)] if self.conditions != Conditions() else []
        return [*map(asdict, self._blobs), *map(asdict, self._hosts), *conditions]

    def of_blob(self, path: str) -> Fault | None:
        """Use up one count of the first fault for a blob's path, and return it."""
        return _take(self._blobs, lambda fault: fault.match in path)

    def of_host(self, host: str, path: str) -> HostFault | None:
        """Use up one count of the first fault for a request, and return it."""
        return _take(self._hosts, lambda fault: fault.host == host and fault.path in path)


def _take(faults: list[_F], fits: Callable[[_F], bool]) -> _F | None:
    for fault in faults:
        if fits(fault):
            fault.count -= 1
            if not fault.count:
                faults.remove(fault)
            return fault
    return None


def _parse(kind: Any, body: Mapping[str, Any]) -> Any:
    """Raises ValueError for missing or unknown keys and values out of range."""
    known = {field.name: field for field in fields(kind)}
    for name, value in body.items():
        if name not in known:
            raise ValueError(f"unknown: {name}")
        if type(value) not in _TYPES[known[name].type]:
            raise ValueError(f"{name} is of the wrong type")
    required = {field.name for field in fields(kind) if field.name in ("match", "host", "count")}
    if missing := required - body.keys():
        raise ValueError(f"missing: {', '.join(sorted(missing))}")
    fault = kind(**body)
    fault.check()
    return fault


def _check_bounds(count: int, seconds: float) -> None:
    if not (1 <= count <= 100_000 and 0 <= seconds <= 3600):
        raise ValueError("count is 1 to 100000, seconds 0 to 3600")
