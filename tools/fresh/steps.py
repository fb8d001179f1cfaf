# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs in the clone, and the accounts that run it."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

from sandbox.settings import CACHE

CLONE = "registry_cache"  # the folder of the clone in an account's home


@dataclass(frozen=True)
class Account:
    """A user of the fresh machine. `number`: its user and group id."""

    name: str
    home: str
    number: int

    @property
    def downloads(self) -> dict[pathlib.Path, str]:
        """The caches that are kept between runs, with their paths in the root."""
        kept = CACHE / "fresh-downloads" / self.name
        places = {"modules": "go/pkg/mod", "builds": ".cache/go-build", "pip": ".cache/pip"}
        if self.number == 0:
            places["image-builds"] = ".cache/registry-cache-sandbox/go-build"
        return {kept / name: f"{self.home}/{place}" for name, place in places.items()}


ADMINISTRATOR = Account("root", "/root", 0)
USER = Account("developer", "/home/developer", 1000)


@dataclass(frozen=True)
class Step:
    """A command that runs in the clone."""

    command: str
    account: Account = ADMINISTRATOR
    offline: bool = False


STEPS = {
    "demo": Step("make demo"),
    "demo-down": Step("make demo-down"),
    "test": Step("make test"),
    "environment": Step("make lint", USER),  # also downloads Go's modules and staticcheck
    "check": Step("make check", USER, offline=True),
}
