# SPDX-License-Identifier: GPL-3.0-or-later
"""Long-running operations (google.aip.dev/151): a change takes effect when its operation is done."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from .store import Resource

# Long enough that a client that does not poll misses the result.
_SECONDS = 0.5


@dataclass
class _Operation:
    target: str
    due: float
    apply: Callable[[], Resource]
    answer: Resource


class Operations:
    """Operations by name, in memory. One that a restart interrupts never happened."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all: dict[str, _Operation] = {}

    def start(self, folder: str, target: str, apply: Callable[[], Resource], identifier: str = "") -> Resource:
        """Start a change of `target`. `apply` makes it and returns the operation's `response`.

        folder: the name's first part, which ends in operations.
        """
        name = f"{folder}/{identifier or secrets.token_hex(12)}"
        self._all[name] = _Operation(target, self._clock() + _SECONDS, apply, {"name": name})
        return {"name": name}

    def get(self, name: str) -> Resource | None:
        operation = self._all.get(name)
        return operation and operation.answer

    def pending(self, target: str) -> bool:
        return any(op.target == target and "done" not in op.answer for op in self._all.values())

    def settle(self) -> None:
        """Make the changes that are due. The application calls it before every request."""
        for operation in self._all.values():
            if "done" not in operation.answer and operation.due <= self._clock():
                operation.answer |= {"done": True, "response": operation.apply()}
