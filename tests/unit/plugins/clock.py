# SPDX-License-Identifier: GPL-3.0-or-later
"""A clock for code that retries until a deadline."""

from __future__ import annotations


class Clock:
    """A clock that advances only during sleep."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
