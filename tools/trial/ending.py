# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns the signals that stop the program into an exception, but never between starting a process and recording it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(BaseException):
    """A signal stops the program. Not an Exception, so no handler of failures catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _end(number: int, _frame: FrameType | None) -> None:
    ignore()  # no other signal interrupts the cleanup
    raise Ended(number)


def watch() -> None:
    """Make signals raise Ended."""
    for one in SIGNALS:
        signal.signal(one, _end)


def ignore() -> None:
    """Ignore signals."""
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Delay signals until the end of a block. If one arrived, Ended is raised then."""
    came: list[int] = []
    before = {one: signal.signal(one, lambda number, _frame: came.append(number)) for one in SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if came and before[signal.Signals(came[0])] is _end:
        _end(came[0], None)
