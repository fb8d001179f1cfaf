# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test wants of Google: blobs that are slow, cut or corrupt, hosts that fail, and conditions that hold for a while."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from .errors import OUTAGES

_TICK_SECONDS = 0.05  # a slow body comes in pieces of this
_HOST = re.compile(r"[a-z0-9]+\.googleapis\.com|[a-z0-9-]+-docker\.pkg\.dev")
_F = TypeVar("_F", "Fault", "HostFault")
_TYPES = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


class Cut(Exception):
    """The connection ends before the body does."""


@dataclass
class Fault:
    """Applies to the next `count` downloads of blobs whose path contains `match` (a digest, an image, any part).

    seconds: before the answer begins. bytes_per_second: of the body; 0 is no limit.
    status: an error instead of the blob. cut, corrupt: at the middle of the body.
    The operator's own downloads are spared.
    """

    match: str
    count: int
    seconds: float = 0
    bytes_per_second: int = 0
    status: int = 0
    cut: bool = False
    corrupt: bool = False

    def check(self) -> None:
        """Raises ValueError for what is out of bounds."""
        _check_bounds(self.count, self.seconds)
        if self.bytes_per_second < 0:
            raise ValueError("bytes_per_second is not negative")
        if self.status and not 400 <= self.status <= 599:
            raise ValueError("status is an error, 400 to 599")

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


@dataclass
class HostFault:
    """Applies to the next `count` requests to a host of Google's whose path contains `path`, the operator's too.

    One of: hang, seconds of silence that end in a 504; status, an outage in the host's own words; seconds, until the
    request is looked at; truncate, an answer whose connection ends in the middle of the body.
    """

    host: str
    count: int
    path: str = ""
    hang: float = 0
    status: int = 0
    seconds: float = 0
    truncate: bool = False

    def check(self) -> None:
        """Raises ValueError for what is out of bounds."""
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
    """What holds until the next reset.

    expired: tokens of STS are over when they are issued. grant_lag, enable_lag: seconds until a new binding, an API
    that was enabled, takes effect. clock_shift: seconds that the emulator's clock is ahead (behind, if negative).
    """

    expired: bool = False
    grant_lag: float = 0
    enable_lag: float = 0
    clock_shift: float = 0

    def check(self) -> None:
        """Raises ValueError for what is out of bounds."""
        if min(self.grant_lag, self.enable_lag) < 0:
            raise ValueError("grant_lag and enable_lag are not negative")


class Faults:
    """The faults that are left, in the order in which they were set."""

    def __init__(self) -> None:
        self.conditions = Conditions()
        self._blobs: list[Fault] = []
        self._hosts: list[HostFault] = []

    def add(self, body: object) -> None:
        """One fault, or conditions, which join those that hold. Raises ValueError for what means nothing."""
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
        """Every fault that is left; the conditions come last, unless none holds."""
        conditions = [asdict(self.conditions)] if self.conditions != Conditions() else []
        return [*map(asdict, self._blobs), *map(asdict, self._hosts), *conditions]

    def of_blob(self, path: str) -> Fault | None:
        """The first fault for a blob's path; one less of it is left."""
        return _take(self._blobs, lambda fault: fault.match in path)

    def of_host(self, host: str, path: str) -> HostFault | None:
        """The first fault for a request; one less of it is left."""
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
    """Raises ValueError for what is missing, unknown or out of bounds."""
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
