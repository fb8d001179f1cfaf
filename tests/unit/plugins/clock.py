# SPDX-License-Identifier: GPL-3.0-or-later
"""A clock for what is tried again until a deadline."""

from __future__ import annotations


class Clock:
    """Time that passes in sleep only."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
