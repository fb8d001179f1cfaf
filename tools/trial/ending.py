# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals that end the program: as an exception in the main thread, never between a start and the note of what was started."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(BaseException):
    """A signal ends the program. No Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _end(number: int, _frame: FrameType | None) -> None:
    ignore()  # what was started is ended in peace
    raise Ended(number)


def watch() -> None:
    """From now on a signal raises Ended."""
    for one in SIGNALS:
        signal.signal(one, _end)


def ignore() -> None:
    """From now on a signal does nothing."""
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Keep signals back until the end of a block; one that came then raises Ended."""
    came: list[int] = []
    before = {one: signal.signal(one, lambda number, _frame: came.append(number)) for one in SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if came and before[signal.Signals(came[0])] is _end:
        _end(came[0], None)
